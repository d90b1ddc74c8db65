"""What a caller asks of an input file: which columns hold the structure, the name, the split and the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomformer.errors import ConfigError, DataError, nearest
from geomformer.units import EV_PER, unit_of

SMILES_COLUMNS = ("smiles", "canonical_smiles", "structure")
"""Names under which a SMILES column is found, in any case, best first."""

ID_COLUMNS = ("id", "name", "mol_id", "idx")
"""Names under which an identifier column is found, in any case, best first."""


@dataclass(frozen=True)
class TargetColumn:
    """A label column: its name in the file, the target's name and how to get to the stored unit.

    Attributes:
        column: name in the file, e.g. `gap_hartree`.
        name: name of the target, e.g. `gap`.
        unit: "ev" where the column name ends with an energy unit, else "" (unknown, left as it is).
        factor: what a value is multiplied by.
    """

    column: str
    name: str
    unit: str
    factor: float

    @classmethod
    def from_column(cls, column: str) -> TargetColumn:
        unit = unit_of(column)
        if unit is None:
            return cls(column, column, "", 1.0)
        return cls(column, column[: -len(unit) - 1], "ev", EV_PER[unit])

    def value(self, text: Any, path: Path, row: int) -> float:
        """Returns a cell as a number in the stored unit, NaN where it is empty.

        Raises:
            DataError: the cell is not numeric, or infinite.
        """
        if text is None or (isinstance(text, str) and not text.strip()):
            return math.nan
        try:
            value = float(text) * self.factor
        except (TypeError, ValueError):
            problem = "not numeric"
        else:
            if not math.isinf(value):
                return value
            problem = "not finite"
        raise DataError(
            f"Expected a number in column '{self.column}', found '{text}' ({problem}) in record {row} of {path}.",
            "Leave the cell empty where there is no label.",
        )


def target_columns(columns: Sequence[str]) -> list[TargetColumn]:
    """Returns the label columns with their names and units.

    Raises:
        ConfigError: two columns would be the same target.
    """
    found = [TargetColumn.from_column(column) for column in dict.fromkeys(columns)]
    names = [target.name for target in found]
    for target in found:
        if names.count(target.name) > 1:
            same = ", ".join(other.column for other in found if other.name == target.name)
            raise ConfigError(f"Expected one column for target '{target.name}', found {same}.", "Keep one of them.")
    return found


@dataclass(frozen=True)
class Query:
    """Columns that a reader is asked for; None means "find it" for SMILES and id, "none" for the split."""

    smiles_column: str | None = None
    id_column: str | None = None
    targets: tuple[TargetColumn, ...] = ()
    split_column: str | None = None

    def labels(self, row: Mapping[str, Any], path: Path, index: int) -> dict[str, float]:
        return {target.name: target.value(row.get(target.column), path, index) for target in self.targets}

    def split_of(self, row: Mapping[str, Any]) -> str | None:
        value = row.get(self.split_column) if self.split_column else None
        return str(value).strip() or None if value is not None else None

    def check(self, columns: Sequence[str], path: Path) -> None:
        """Checks that every column that was asked for exists.

        Raises:
            ConfigError: a column is missing.
        """
        wanted = [self.id_column, self.split_column, *(target.column for target in self.targets)]
        for column in wanted:
            if column is not None and column not in columns:
                raise missing_column(column, columns, path)


def missing_column(column: str, columns: Sequence[str], path: Path) -> ConfigError:
    found = ", ".join(columns) if columns else "no columns"
    return ConfigError(f"Expected a column '{column}' in {path}, found {found}.{nearest(column, columns)}")


def find_column(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Returns the first column whose lower-case name is in `names`, by the order of `names`."""
    lowered: dict[str, str] = {}
    for column in columns:
        lowered.setdefault(column.lower().strip(), column)
    return next((lowered[name] for name in names if name in lowered), None)


def smiles_column(asked: str | None, columns: Sequence[str], path: Path) -> str:
    """Returns the column that holds the SMILES.

    Raises:
        ConfigError: there is none.
    """
    if asked is not None:
        if asked not in columns:
            raise missing_column(asked, columns, path)
        return asked
    found = find_column(SMILES_COLUMNS, columns)
    if found is None:
        raise ConfigError(
            f"Expected a SMILES column ({', '.join(SMILES_COLUMNS)}, any case) in {path}, found "
            f"{', '.join(columns) or 'no columns'}.{nearest('smiles', columns)}",
            "Name it with --smiles-column.",
        )
    return found
