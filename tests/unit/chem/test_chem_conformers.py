from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from geomformer.chem import conformers
from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.errors import MoleculeError
from geomformer.records import CONFORMER_SOURCES, RawMolecule


def sources(smiles: str, **options: int) -> list[str]:
    record = build_record(RawMolecule(0, "m", smiles), ChemistryOptions(**options))  # type: ignore[arg-type]
    return [CONFORMER_SOURCES[number] for number in record.conformer_source]


def test_the_number_of_conformers_asked_for() -> None:
    assert sources("CCCCO", num_conformers=4) == ["etkdg"] * 4


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_every_rung_is_reached_when_those_above_fail(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = conformers.embed
    tried: list[str] = []

    def fails(mol: Chem.Mol, rung: str, count: int, seed: int, attempts: int) -> int:
        tried.append(rung)
        return 0 if rung in conformers.RUNGS[:failing] else embed(mol, rung, count, seed, attempts)

    monkeypatch.setattr(conformers, "embed", fails)
    got = sources("CC(N)C(=O)O", num_conformers=3)
    assert list(dict.fromkeys(tried)) == list(conformers.RUNGS[: failing + 1])
    assert got == (["flat_2d"] if failing == 3 else [conformers.RUNGS[failing]] * 3)


def test_a_molecule_with_impossible_stereo_is_embedded_loosely() -> None:
    assert sources("C1[C@@H]2C[C@H]2[C@@H]2C[C@H]12", num_conformers=1, max_embed_attempts=5) == ["etkdg_loose"]


def test_an_exception_in_embedding_is_a_failed_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Pre-condition Violation")

    monkeypatch.setattr(rdDistGeom, "EmbedMultipleConfs", broken)
    assert sources("CCO", num_conformers=2) == ["flat_2d"]


def test_non_finite_coordinates_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(mol: Chem.Mol) -> np.ndarray:
        return np.full((mol.GetNumAtoms(), 3), np.nan)

    monkeypatch.setattr(conformers, "embed", lambda *_: 0)
    monkeypatch.setattr(conformers, "draw", draw)
    with pytest.raises(MoleculeError, match="No geometry"):
        sources("CCO")


def test_collapsed_conformers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    usable, seen = conformers.usable, []

    def second_collapsed(positions: np.ndarray, coincident: float = conformers.COINCIDENT) -> bool:
        seen.append(positions)
        return len(seen) not in (2, 3) and usable(positions, coincident)

    monkeypatch.setattr(conformers, "usable", second_collapsed)
    assert sources("CCO", num_conformers=3) == ["etkdg"] * 2


@pytest.mark.parametrize(
    "smiles", ["CC(=O)[O-].[Na+]", "Cl.Cl.c1ccncc1CN", "O.O.[Mg+2].[Cl-].[Cl-]", "c1ccccc1.c1ccccc1"]
)
def test_fragments_do_not_lie_on_top_of_each_other(smiles: str) -> None:
    record = build_record(RawMolecule(0, "m", smiles), ChemistryOptions(num_conformers=2, hydrogens=True))
    fragments = Chem.GetMolFrags(Chem.AddHs(Chem.MolFromSmiles(record.smiles)))
    label = np.empty(record.num_atoms)
    for number, atoms in enumerate(fragments):
        label[list(atoms)] = number
    for positions in record.positions:
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
        between = distances[label[:, None] != label]
        assert conformers.FRAGMENT_CLASH - 1e-3 <= between.min() < 4.0


def test_separate_moves_only_what_is_too_close() -> None:
    positions = np.zeros((5, 3))
    positions[:3, 0] = [0.0, 1.5, 3.0]
    positions[4] = [0.0, 9.0, 0.0]
    before = positions.copy()
    assert conformers.separate(positions, [np.array([3]), np.array([0, 1, 2]), np.array([4])], 2.5)
    assert np.array_equal(positions[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert 2.5 <= np.linalg.norm(positions[3] - positions[:3], axis=1).min() <= 3.0
    assert not conformers.separate(positions, [np.array([3]), np.array([0, 1, 2]), np.array([4])], 2.4)


def test_a_cage_gets_a_geometry_within_its_count_of_attempts() -> None:
    assert sources("C12C3C4C1C5C2C3C45", num_conformers=1)[0] in conformers.RUNGS
