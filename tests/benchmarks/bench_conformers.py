"""Conformer throughput of the library against a bare loop of the same RDKit calls, interleaved on the same cores.

python tests/benchmarks/bench_conformers.py --molecules 200 --conformers 2 --workers 2
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import statistics
import time
from functools import partial
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from geomformer.chem.build import ChemistryOptions, build
from geomformer.chem.conformers import seed_of
from geomformer.chem.molecules import canonicalise, read_smiles
from geomformer.executors import LocalExecutor
from geomformer.records import RawMolecule, Record

MOLECULES = """
CC(=O)Oc1ccccc1C(=O)O CC(C)Cc1ccc(C(C)C(=O)O)cc1 CN1C=NC2=C1C(=O)N(C)C(=O)N2C Cc1ccc(S(N)(=O)=O)cc1
O=C(O)c1ccccc1O CC(=O)Nc1ccc(O)cc1 c1ccc2ncccc2c1 CCOC(=O)c1ccc(N)cc1 NC(Cc1ccccc1)C(=O)O OCC1OC(O)C(O)C(O)C1O
CC1=CCC(C(C)=C)CC1 COc1cc(C=O)ccc1O FC(F)(F)c1ccccc1N ClCC1CO1 N#Cc1ccncc1 CC(C)(C)OC(=O)N1CCNCC1 CSCCC(N)C(=O)O
c1ccc(-c2nc3ccccc3[nH]2)cc1 O=[N+]([O-])c1ccc(Cl)cc1 CCN(CC)C(=O)c1cccc(C)c1
"""


def bare(smiles: str, conformers: int, attempts: int) -> int:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed_of(smiles)
    parameters.numThreads = 1
    parameters.maxIterations = attempts
    if len(rdDistGeom.EmbedMultipleConfs(mol, conformers, parameters)):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=200)
    return Chem.RemoveHs(mol).GetNumConformers()


def read(path: Path | None, count: int) -> list[str]:
    if path is None:
        found = list(itertools.islice(itertools.cycle(MOLECULES.split()), count))
    else:
        with path.open(newline="") as handle:
            found = [row["smiles"] for row in csv.DictReader(handle)][:count]
    # Atom order and seed decide how long embedding takes: both sides get the same.
    return [canonicalise(read_smiles(text)).smiles for text in found]


def rounds(smiles: list[str], options: ChemistryOptions, workers: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds of the bare loop and of the library, one pair per round; starting the processes is not timed."""
    raws = [RawMolecule(index, str(index), text) for index, text in enumerate(smiles)]
    warm = [raws[0]] * 2 * workers
    simple = partial(bare, conformers=options.num_conformers, attempts=options.max_embed_attempts)
    times = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in range(repeats):
            pool.map(simple, [smiles[0]] * 2 * workers, chunksize=1)
            start = time.perf_counter()
            pool.map(simple, smiles, chunksize=8)
            bare_seconds = time.perf_counter() - start
            with LocalExecutor(workers=workers) as executor:
                results = executor.map(partial(build, options=options), [*warm, *raws])
                for _ in warm:
                    next(results)
                start = time.perf_counter()
                done = sum(isinstance(result, Record) for result in results)
                times.append((bare_seconds, time.perf_counter() - start))
            if done < 0.95 * len(raws):
                raise SystemExit(f"Only {done} of {len(raws)} molecules gave a record.")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=200)
    parser.add_argument("--conformers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="a CSV with a smiles column instead of the built-in molecules")
    parser.add_argument("--orbitals", choices=["none", "huckel", "xtb"], default="huckel")
    arguments = parser.parse_args()
    smiles = read(arguments.csv, arguments.molecules)
    options = ChemistryOptions(num_conformers=arguments.conformers, orbitals=arguments.orbitals)
    times = rounds(smiles, options, arguments.workers, arguments.repeats)
    ratios = [bare_seconds / ours for bare_seconds, ours in times]
    for bare_seconds, ours in times:
        print(f"bare {len(smiles) / bare_seconds:7.1f} molecules/s   library {len(smiles) / ours:7.1f} molecules/s")
    print(f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)}; range {min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
