"""`predict`: one output row per input record, in order, with flat memory."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from geomformer.artifacts.manifest import MIN_MOLECULES_PER_ELEMENT, Manifest
from geomformer.chem import xtb
from geomformer.chem.blocks import mol_block
from geomformer.chem.build import ChemistryOptions, build
from geomformer.elements import SYMBOLS
from geomformer.errors import ArtifactError, ConfigError, MoleculeError
from geomformer.executors import Executor, Failure, LocalExecutor
from geomformer.inference.averaging import ConformerPredictions, InferenceSettings, predict_records
from geomformer.inference.domain import OUTSIDE, Domain, Judgement
from geomformer.io.readers import input_columns, read_molecules
from geomformer.io.writers import MOL_KEY, open_writer
from geomformer.records import CONFORMER_SOURCES, RawMolecule, Record
from geomformer.tasks.base import Task

log = logging.getLogger(__name__)

CHUNK_ROWS = 512
"""Input rows between two writes."""

FILE_COLUMN = "file"
"""Where a record comes from, when there are several files."""

Progress = Callable[[int, int | None], None]


@dataclass
class PredictSummary:
    """What a prediction run did.

    Attributes:
        out: the written file.
        model: reference of the model.
        target, unit: what was predicted.
        rows: number of output rows, equal to the number of input records.
        statuses: rows by status.
        outside: predicted rows outside of what the model was trained on; None where the model does not know that.
    """

    out: Path
    model: str
    target: str
    unit: str
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    outside: int | None = None


@dataclass(frozen=True)
class Predictor:
    """A loaded model with what is needed to run it on molecules.

    Attributes:
        domain: what the model was trained on; without it the columns that judge a row are empty.
        blocks: also give each row its mol block, for SDF output.
    """

    manifest: Manifest
    model: nn.Module
    task: Task
    settings: InferenceSettings
    chemistry: ChemistryOptions
    blocks: bool = False
    domain: Domain | None = None

    @property
    def target(self) -> str:
        return self.manifest.answer or (*self.task.targets, *self.task.vectors)[0]

    @property
    def columns(self) -> dict[str, type]:
        """The columns a prediction adds, with their types."""
        unit = self.manifest.target(self.target).unit
        return {
            "index": int,
            "id": str,
            "smiles": str,
            f"pred_{self.target}_{unit}": float,
            f"spread_{self.target}_{unit}": float,
            "num_conformers": int,
            "conformer_source": str,
            "domain": str,
            f"expected_error_{self.target}_{unit}": float,
            "status": str,
            "error": str,
        }

    def rows(self, molecules: Iterable[RawMolecule], executor: Executor) -> Iterator[dict[str, Any]]:
        """Yields the row of each molecule, in order."""
        raws, for_workers = itertools.tee(molecules)
        built = executor.map(functools.partial(build, options=self.chemistry), for_workers)
        pairs = zip(raws, built, strict=True)
        while chunk := list(itertools.islice(pairs, CHUNK_ROWS)):
            yield from self.chunk_rows(chunk)

    def chunk_rows(self, chunk: Iterable[tuple[RawMolecule, Record | MoleculeError | Failure]]) -> list[dict[str, Any]]:
        checked = [(raw, self.checked(result)) for raw, result in chunk]
        records = [(position, item) for position, (_, item) in enumerate(checked) if isinstance(item, Record)]
        predictions = {p.index: p for p in predict_records(self.model, self.task, records, self.settings)}
        judged = self.judged(records, predictions)
        return [self.row(raw, item, predictions.get(i), judged.get(i)) for i, (raw, item) in enumerate(checked)]

    def judged(
        self, records: Sequence[tuple[int, Record]], predictions: Mapping[int, ConformerPredictions]
    ) -> dict[int, Judgement]:
        if self.domain is None or not records:
            return {}
        spreads = np.array([predictions[position].spread(self.target) for position, _ in records])
        found = self.domain.judge([record for _, record in records], spreads)
        return dict(zip([position for position, _ in records], found, strict=True))

    def checked(self, result: Record | MoleculeError | Failure) -> Record | MoleculeError:
        """Refuses what the model was not made for."""
        if isinstance(result, Failure):
            return MoleculeError("failed", result.reason)
        if isinstance(result, MoleculeError) or result.atomic_numbers is None:
            return result
        unknown = sorted(set(result.atomic_numbers.tolist()) - self.manifest.supported_elements())
        if not unknown:
            return result
        seen = ", ".join(f"{SYMBOLS[z]} ({self.manifest.elements.get(SYMBOLS[z], 0)})" for z in unknown)
        return MoleculeError(
            "unsupported_element",
            f"The model was trained on too few examples with {seen}; "
            f"{MIN_MOLECULES_PER_ELEMENT} are needed to trust it.",
        )

    def row(
        self,
        raw: RawMolecule,
        item: Record | MoleculeError,
        prediction: ConformerPredictions | None,
        judgement: Judgement | None,
    ) -> dict[str, Any]:
        value, spread, expected = [n for n in self.columns if n.startswith(("pred_", "spread_", "expected_error_"))]
        row: dict[str, Any] = dict.fromkeys(self.columns)
        row |= {"index": raw.index, "id": raw.id, "smiles": raw.text if raw.kind == "smiles" else None}
        if isinstance(item, MoleculeError):
            row |= {"status": item.status, "error": item.message, "num_conformers": 0}
        elif prediction is None or not np.isfinite(prediction.values[self.target]).all():
            reason = "The model gives no finite number for this geometry."
            row |= {"status": "failed", "error": reason, "num_conformers": 0}
        else:
            names = sorted({CONFORMER_SOURCES[source] for source in item.conformer_source.tolist()})
            row |= {
                "smiles": item.smiles,
                value: round(prediction.mean(self.target), 6),
                spread: round(prediction.spread(self.target), 6),
                "num_conformers": len(prediction.values[self.target]),
                "conformer_source": "+".join(names),
                "status": "ok",
            }
            if judgement is not None:
                row |= {"domain": judgement.domain, expected: judgement.expected_error}
        passed = {input_name(name, self.columns): text for name, text in raw.columns.items()}
        if self.blocks:
            row[MOL_KEY] = raw.text if raw.kind == "mol" else mol_block(item)
        return passed | row


def read_all(
    sources: Sequence[Path], smiles_column: str | None, id_column: str | None, names: Mapping[str, str]
) -> Iterator[RawMolecule]:
    """Reads files one after another; `index` runs on, columns get their names of the output.

    With several files a column `file` is added in front.
    """
    index = 0
    for source in sources:
        origin = {FILE_COLUMN: source.name} if len(sources) > 1 else {}
        for raw in read_molecules(source, smiles_column=smiles_column, id_column=id_column):
            raw.index, index = index, index + 1
            raw.columns = origin | {names.get(name, name): cell for name, cell in raw.columns.items()}
            yield raw


def output_names(columns: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """Names of the input's columns in the output, all different.

    A column keeps its name; where `taken` has it, it is `input_NAME`, and where the input has that as well,
    `input_input_NAME`.
    """
    used = {*taken, *columns}
    names = {}
    for name in columns:
        names[name] = name
        if name in taken:
            while names[name] in used:
                names[name] = f"input_{names[name]}"
            used.add(names[name])
    return names


def input_name(name: str, taken: Mapping[str, type]) -> str:
    """An input column's name in the output: its own, or `input_NAME` where a column of the prediction has it."""
    return f"input_{name}" if name in taken else name


def predict_file(
    predictor: Predictor,
    sources: Sequence[Path],
    out: Path,
    *,
    workers: int | None = None,
    smiles_column: str | None = None,
    id_column: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Predicts every record of one or several files.

    Args:
        predictor: the model, ready to run.
        sources: molecules, any formats `geomformer.io` reads. With several files the output gets a column `file`
            and `index` runs on through all of them.
        out: table or SDF, by suffix; replaced only when complete.
        workers: processes that build conformers; all cores by default.
        smiles_column, id_column: columns of a table, where their names are unusual.
        limit: read only so many records.
        progress: called with the number of finished rows.

    Raises:
        DataError: the file is missing, empty or unreadable; the output cannot be written.
        ConfigError: the output is one of the input files, or the package for the orbitals is not installed.
    """
    if predictor.chemistry.orbitals == "xtb":
        xtb.check_installed()
    manifest = predictor.manifest
    summary = PredictSummary(out, manifest.reference, predictor.target, manifest.target(predictor.target).unit)
    if predictor.domain is not None:
        summary.outside = 0
    check_output(sources, out)
    origin = [FILE_COLUMN] if len(sources) > 1 else []
    passed = list(dict.fromkeys(name for source in sources for name in input_columns(source)))
    names = output_names(passed, [*predictor.columns, *origin])
    extra = dict.fromkeys([*origin, *names.values()], str)

    def molecules() -> Iterator[RawMolecule]:
        return itertools.islice(read_all(sources, smiles_column, id_column, names), limit)

    # Reading costs a thousandth of what conformers do: worth a total for the progress bar.
    total = sum(1 for _ in molecules()) if progress is not None else None
    rest = molecules()
    first = list(itertools.islice(rest, 1))  # most faults of a file show here, before the output is begun
    count = workers if workers is not None else os.cpu_count() or 1
    with LocalExecutor(count) as executor, open_writer(out, {**predictor.columns, **extra}) as writer:
        for row in predictor.rows(itertools.chain(first, rest), executor):
            writer.write([row])
            summary.rows += 1
            summary.statuses[row["status"]] = summary.statuses.get(row["status"], 0) + 1
            if summary.outside is not None:
                summary.outside += row["domain"] == OUTSIDE
            if progress is not None:
                progress(summary.rows, total)
    return summary


def check_output(sources: Sequence[Path], out: Path) -> None:
    """Refuses to replace an input by the output.

    Raises:
        ConfigError: they are the same file.
    """
    if out.exists() and any(source.exists() and source.samefile(out) for source in sources):
        raise ConfigError(
            f"Expected an output file other than the input, found {out} as both.", "Choose another --out."
        )


def chemistry_for(manifest: Manifest, conformers: int, geometry: str) -> ChemistryOptions:
    """The records a model was trained on, from any input.

    Raises:
        ArtifactError: the model reads reference geometries and would be given generated ones.
    """
    if manifest.inputs.geometry == "reference" and geometry == "generate":
        raise ArtifactError(
            f"{manifest.reference} was trained on reference (DFT) geometries, not on generated conformers.",
            "Give a file with such geometries and --geometry input.",
        )
    defaults = ChemistryOptions()
    return ChemistryOptions(
        num_conformers=conformers,
        hydrogens=manifest.inputs.hydrogens,
        geometry="input" if geometry == "input" else "generate",
        features=manifest.inputs.features,
        orbitals=manifest.inputs.orbitals,
        max_atoms=manifest.inputs.max_atoms or defaults.max_atoms,
    )
