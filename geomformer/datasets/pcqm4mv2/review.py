"""What becomes of the rows of PCQM4Mv2: geometries of other molecules, and rows that must not be lost."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence

import numpy as np

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.build import build as chem_build
from geomformer.chem.composition import block_composition, formula, smiles_composition
from geomformer.chem.drawing import flat_record
from geomformer.datasets.pcqm4mv2.sources import lost_reason
from geomformer.errors import DataError, MoleculeError
from geomformer.executors import Failure, LocalExecutor
from geomformer.records import CONFORMER_SOURCES, RawMolecule, Record

logger = logging.getLogger(__name__)

DRAWING_SECONDS = 60.0
"""Time for the drawing of a molecule that took a worker down."""
MAX_MISMATCHES = 0.1
"""With a larger share of geometries of other molecules in a shard the SDF is not in the order of the train split."""
MIN_MISMATCHES = 5
SHOWN = 10


def build(raw: RawMolecule, options: ChemistryOptions) -> Record | MoleculeError:
    """Turns a row into a record, in a worker process.

    A geometry of another molecule is not used. Rows that are not for training are drawn if nothing else works.
    """
    if raw.reference_block is not None and block_composition(raw.reference_block) != smiles_composition(raw.text):
        raw = dataclasses.replace(raw, reference_block=None)
    result = chem_build(raw, options)
    if isinstance(result, MoleculeError) and _is_evaluated(raw):
        drawn = flat_record(raw, options)
        return drawn if isinstance(drawn, Record) else result
    return result


def _is_evaluated(raw: RawMolecule) -> bool:
    return raw.split is not None and raw.split != "train"


class Review:
    """Looks at every result: geometries of other molecules, and rows that must not be lost; a `pipeline.Review`.

    Args:
        train: idx of the train rows in order. (R,)
        window: train rows among which mismatches are counted: those of a shard.
        chemistry: how molecules become records.
    """

    def __init__(self, train: np.ndarray, window: int, chemistry: ChemistryOptions) -> None:
        self._train, self._window = train, window
        self._chemistry = chemistry
        self._mismatches: dict[int, int] = {}
        self._misfits: list[str] = []
        self._flat: list[str] = []
        self._lost: list[str] = []

    def __call__(self, raw: RawMolecule, result: Record | MoleculeError | Failure) -> Record | MoleculeError | Failure:
        if not isinstance(result, Record):
            return self._rescue(raw, result) if _is_evaluated(raw) else result
        if raw.reference_block is not None and result.target_positions is None:
            self._compare(raw, raw.reference_block)
        if CONFORMER_SOURCES[result.conformer_source[0]] == "flat_2d":
            self._flat.append(raw.id)
        return result

    def _compare(self, raw: RawMolecule, block: str) -> None:
        """Notes a geometry that does not fit; many of other molecules cannot be an accident."""
        expected, found = smiles_composition(raw.text), block_composition(block)
        if expected == found:
            self._misfits.append(raw.id)
            return
        row = int(np.searchsorted(self._train, raw.index))
        window = row // self._window
        self._mismatches[window] = count = self._mismatches.get(window, 0) + 1
        what = f"row {raw.id} is {formula(expected)}, record {row} of the SDF (from 0) is {formula(found)}"
        if count <= MIN_MISMATCHES:
            logger.warning("this geometry is left out, for it is not that of its molecule: %s", what)
        rows = min(self._window, len(self._train) - window * self._window)
        if count >= MIN_MISMATCHES and count > MAX_MISMATCHES * rows:
            raise DataError(
                f"The SDF is not in the order of the train split: {what}, like {count - 1} of the rows before.",
                "Use the official SDF together with the official split; nothing of this shard was written.",
            )

    def _rescue(self, raw: RawMolecule, result: MoleculeError | Failure) -> Record | MoleculeError:
        """Draws a molecule that took its worker down, in a process of its own, for it may do so again."""
        if isinstance(result, Failure):
            logger.warning("row %s: %s; it is drawn instead", raw.id, result.reason)
            for drawn in (True, False):
                draw = functools.partial(flat_record, options=self._chemistry, drawn=drawn)
                with LocalExecutor(1, timeout=DRAWING_SECONDS) as executor:
                    found = next(iter(executor.map(draw, [raw])))
                if isinstance(found, Record):
                    self._flat.append(raw.id)
                    return found
            result = MoleculeError("failed", result.reason)
        self._lost.append(raw.id)
        return MoleculeError(result.status, lost_reason(result.message, raw.split))

    def report(self) -> None:
        """Logs what happened in this run to rows that are not as they should be."""
        mismatches = sum(self._mismatches.values())
        if mismatches or self._misfits:
            logger.warning(
                "%d train rows have no reference geometry: %d are of another molecule, %d have other bonds or damage%s",
                mismatches + len(self._misfits),
                mismatches,
                len(self._misfits),
                _listed(self._misfits),
            )
        if self._flat:
            logger.warning("%d rows have a flat drawing for a geometry%s", len(self._flat), _listed(self._flat))
        if self._lost:
            logger.error(
                "%d rows of validation or test are LOST, see rejected.parquet; an evaluation without them is not the "
                "official one%s",
                len(self._lost),
                _listed(self._lost),
            )


def _listed(ids: Sequence[str]) -> str:
    return f": {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}" if ids else ""
