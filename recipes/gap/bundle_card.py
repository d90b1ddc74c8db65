"""What the card of the bundled gap model says beyond its manifest: errors by kind of molecule, and when to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rdkit import Chem

from geomformer.chem.radicals import num_unpaired
from geomformer.inference.domain import MIN_MOLECULES, Domain, Judgement
from geomformer.records import Record

SIZES = ((1, 10), (11, 15), (16, 20), (21, 99))
MAX_RINGS = 3
MIN_ROWS = 20
"""A group of fewer molecules has no error of its own in the card."""
FIFTHS = 5

LIMITS = (
    "Labels are gaps between the highest occupied and the lowest unoccupied orbital (Kohn-Sham) of molecules in the "
    "gas phase, at geometries optimised with the theory named above: no optical gaps, and none of solids or "
    "solutions. Errors were measured with {conformers} conformers, on molecules of {elements}{charges}: of other "
    "elements that `predict` takes they are unknown. Charged molecules and salts, metals and molecules of more than "
    "about 25 heavy atoms are rare or absent in the training data, though some count as `inside`; elements seen in "
    "fewer than 20 training molecules are refused. The model sees heavy atoms, the 2D graph with its stereo labels, "
    "and frontier orbitals by {theory}: tautomers and protonation states are taken as written, electrons that are "
    "written unpaired and can pair are paired, and mirror images get the same gap. The spread over {over} is no "
    "error; orbitals are those of the first conformer, so that it misses what they would add."
)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; equal values share their mean rank."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[position]


def card_sections(
    records: Sequence[Record],
    errors: np.ndarray,
    judged: Sequence[Judgement],
    metrics: Mapping[str, float],
    domain: Domain,
    theory: str,
    members: int,
) -> dict[str, str]:
    """Writes the sections.

    Args:
        records: the molecules of the PCQM4Mv2 test set.
        errors: absolute errors of their predictions, eV.
        judged: what `domain` says of them.
        metrics: of this test set, with its rank correlations.
        domain: of the model.
        theory: of the orbitals it reads.
        members: networks of the model.

    Returns:
        Markdown by heading.
    """
    expected = np.array([item.expected_error for item in judged], dtype=float)
    over = "conformers" if members == 1 else "conformers and networks"
    return {
        "Errors by kind of molecule (PCQM4Mv2 validation)": by_kind(records, errors, judged),
        "Inside and outside of the training data": about_domain(domain, metrics, over)
        + "\n\n"
        + by_fifth(expected, errors),
        "Where not to trust it": LIMITS.format(
            theory=theory, over=over, conformers=len(records[0].positions), **contents(records)
        ),
    }


def contents(records: Sequence[Record]) -> dict[str, str]:
    """What the test molecules are made of, for `LIMITS`."""
    mols = [mol for record in records if (mol := Chem.MolFromSmiles(record.smiles or "")) is not None]
    symbols = {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()} | {"H"}
    charged = any(Chem.GetFormalCharge(mol) for mol in mols)
    return {"elements": ", ".join(sorted(symbols)), "charges": "" if charged else ", none with a net charge"}


def by_kind(records: Sequence[Record], errors: np.ndarray, judged: Sequence[Judgement]) -> str:
    groups: dict[str, list[float]] = {}
    for record, error, judgement in zip(records, errors.tolist(), judged, strict=True):
        for group in [*groups_of(record), f"domain: {judgement.domain}"]:
            groups.setdefault(group, []).append(error)
    lines = [f"| {name} | {len(e)} | {np.mean(e):.3f} |" for name, e in sorted(groups.items()) if len(e) >= MIN_ROWS]
    rare = ", ".join(f"{name} ({len(e)})" for name, e in sorted(groups.items()) if len(e) < MIN_ROWS)
    table = "\n".join(["| molecules | number | MAE, eV |", "|---|---|---|", *lines])
    return table + (f"\n\nToo few to say: {rare}." if rare else "")


def groups_of(record: Record) -> list[str]:
    """Kinds a molecule belongs to, by size, charge, rings, unpaired electrons and elements."""
    groups = [f"heavy atoms: {low:02} to {high}" for low, high in SIZES if low <= record.num_atoms <= high]
    mol = Chem.MolFromSmiles(record.smiles) if record.smiles else None
    if mol is None:
        return groups
    charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    kind = "net charge" if sum(charges) else "charged atoms, no net charge" if any(charges) else "no charged atom"
    rings = mol.GetRingInfo().NumRings()
    groups += [f"charge: {kind}", f"rings: {MAX_RINGS} or more" if rings >= MAX_RINGS else f"rings: {rings}"]
    groups.append("electrons: some unpaired" if num_unpaired(mol) else "electrons: all paired")
    return groups + [f"element: {symbol}" for symbol in {atom.GetSymbol() for atom in mol.GetAtoms()} - {"C", "H"}]


def about_domain(domain: Domain, metrics: Mapping[str, float], over: str) -> str:
    (_, largest), (lowest, highest) = domain.ranges.tolist()
    return (
        f"`predict` calls a molecule `outside` (column `domain`) when more than {domain.max_unfamiliar[0]:.0%} of its "
        "heavy atoms stand in surroundings (the atom with its charge and hydrogens, its bonds, its neighbours) that no "
        f"molecule of the training data named above has, when it has none or more than {largest} heavy atoms, a net "
        f"charge below {lowest} or above {highest}, unpaired electrons, or no frontier orbitals that their theory can "
        "find. Column `expected_error_gap_ev` estimates the absolute error, in eV, from "
        f"{estimated_from(domain, over)}; it was fitted to validation molecules of the training mixture, "
        "never to those below. It orders molecules, and is no bound: of two molecules with the same estimate one may "
        "be many times as wrong as the other. `inside` is no promise either.\n\n"
        "Rank correlation (Spearman) with the absolute error on PCQM4Mv2 validation: expected error "
        f"{metrics['expected_error_rank_correlation']:.2f}, spread over {over} "
        f"{metrics['spread_rank_correlation']:.2f}. Numbers and errors inside and outside stand in the tables above. "
        "Expected and true errors, in fifths of the same molecules:"
    )


def estimated_from(domain: Domain, over: str) -> str:
    """What has a weight in the expected error."""
    sources = (
        "the share of such surroundings",
        f"the share of surroundings two bonds wide that fewer than {MIN_MOLECULES[2]} training molecules have",
        f"the spread over {over}",
    )
    used = [text for text, weight in zip(sources, domain.weights[1:].tolist(), strict=True) if weight > 0]
    return ", ".join(used[:-1]) + " and " * (len(used) > 1) + "".join(used[-1:]) or "nothing but its mean"


def by_fifth(expected: np.ndarray, errors: np.ndarray) -> str:
    parts = np.array_split(np.argsort(expected, kind="stable"), FIFTHS)
    lines = [f"| {expected[part].mean():.3f} | {errors[part].mean():.3f} |" for part in parts]
    return "\n".join(["| expected error, eV | MAE, eV |", "|---|---|", *lines])
