"""The error that rotation symmetry leaves on simulated particles: no exactly equivariant model can have less.

The N-body benchmark limits each Cartesian component of a force, so that its trajectories depend on how a system lies to
the axes. An equivariant model gives every orientation of a state the same answer, rotated; where the state may lie in
any orientation, the best such answer is the mean over all of them, and its squared error is the variance around it:

    floor = E_s Var_R[R^T simulate(R s)]

with s the states of the input and R uniform over rotations. Reflections add nothing: the limit is the same in a mirror.
What rounding of the stored states and chaos add is not in it (about 3e-5 on the benchmark).
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from geomformer.datasets.nbody import chunk_size, simulation
from geomformer.datasets.nbody.simulation import Systems
from geomformer.evaluation.particles import MSE
from geomformer.files import write_atomic
from geomformer.prepared.cache import cache_folder

if TYPE_CHECKING:
    from geomformer.prepared.dataset import PreparedDataset

logger = logging.getLogger(__name__)

ROTATION_FLOOR = "rotation_floor"
STANDARD_ERROR = "standard_error"

ORIENTATIONS = 8
SEED = 0
MOST_PAIR_STEPS = 2e9
"""Pairs of particles times steps that are simulated for a split, about two minutes of one core; what is beyond is left
out, and the standard error tells."""


def rotation_floor(dataset: PreparedDataset, split: str, rows: int) -> dict[str, float]:
    """The floor on the first `rows` systems of a split.

    Args:
        dataset: of particles.
        split: its name.
        rows: how many systems count.

    Returns:
        `positions_mse`, the floor, and `positions_mse_standard_error`, its standard error over systems if there are
        two; nothing for particles that the simulation here did not move.
    """
    if not is_simulated(dataset.manifest):
        return {}
    variances = _variances(dataset, split, rows)
    floor = {MSE: float(variances.mean())}
    if len(variances) > 1:
        floor[f"{MSE}_{STANDARD_ERROR}"] = float(variances.std(ddof=1) / np.sqrt(len(variances)))
    return floor


def is_simulated(manifest: dict[str, Any]) -> bool:
    """Whether a dataset's targets are those of `simulation.simulate`, by what its manifest records."""
    options = manifest.get("options", {})
    known = {"time_step": simulation.TIME_STEP, "force_cap": simulation.FORCE_CAP}
    needed = {"force_cap_of", "input_step", "target_step", "num_particles"}
    return needed <= options.keys() and all(options.get(name) == value for name, value in known.items())


def rotation_variances(
    systems: Systems, steps: int, *, isotropic_clip: bool = False, orientations: int = ORIENTATIONS, seed: int = SEED
) -> np.ndarray:
    """How much the end of each trajectory depends on the orientation of its start, without bias.

    The states are rotated, simulated and rotated back; each system has its own rotations, which do not depend on the
    systems after it.

    Args:
        systems: S start states.
        steps: time steps to follow them.
        isotropic_clip: how forces are limited, see `simulation.simulate`.
        orientations: rotations of each system, two or more.
        seed: of the rotations.

    Returns:
        Variance over orientations of the positions, mean over particles and coordinates. (S,) float64
    """
    count, num_particles = systems.charges.shape
    rng = np.random.default_rng(seed)
    together = max(1, chunk_size(num_particles) // orientations)
    variances = np.empty(count)
    for start in range(0, count, together):
        part = systems[start : start + together]
        turns = Rotation.random(len(part) * orientations, rng).as_matrix()
        charges, x, v = (np.repeat(a, orientations, 0) for a in (part.charges, part.positions, part.velocities))
        turned = Systems(charges, x @ turns.transpose(0, 2, 1), v @ turns.transpose(0, 2, 1))
        (end,) = simulation.simulate(turned, [steps], isotropic_clip=isotropic_clip)
        back = (end.positions @ turns).reshape(len(part), orientations, num_particles, 3)
        variances[start : start + together] = back.var(axis=1, ddof=1).mean(axis=(1, 2))
    return variances


def _variances(dataset: PreparedDataset, split: str, rows: int) -> np.ndarray:
    """`rotation_variances` of the first rows, from the dataset's cache if a whole split was asked for before."""
    options = dataset.manifest["options"]
    num_particles, steps = options["num_particles"], options["target_step"] - options["input_step"]
    pairs = num_particles * (num_particles - 1) / 2
    most = min(dataset.splits[split], max(2, int(MOST_PAIR_STEPS / (pairs * steps * ORIENTATIONS))))
    file = cache_folder(dataset.path, dataset.fingerprint) / f"{split}.rotations-{ORIENTATIONS}-{SEED}.npy"
    kept = _kept(file, most)
    if kept is not None:
        return kept[:rows]
    logger.info("simulating %s of %s in %d orientations for the rotation floor", split, dataset.path, ORIENTATIONS)
    systems = first_systems(dataset, split, min(rows, most))
    found = rotation_variances(systems, steps, isotropic_clip=options["force_cap_of"] == "norm")
    if len(found) == most:
        _keep(file, found)
    return found


def first_systems(dataset: PreparedDataset, split: str, rows: int) -> Systems:
    """States of the first `rows` systems of a split, as they are stored."""
    found = dataset.split(split).gather(np.arange(rows))
    num_particles = int(found.num_atoms[0])
    charges, velocities = found.fields["particle_charges"], found.fields["velocities"]
    shape = rows, num_particles, 3
    return Systems(
        charges.reshape(rows, num_particles).astype(np.float64),
        found.positions.reshape(shape).astype(np.float64),
        velocities.reshape(shape).astype(np.float64),
    )


def _kept(file: Path, rows: int) -> np.ndarray | None:
    try:
        found: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    return found if found.shape == (rows,) and found.dtype == np.float64 else None


def _keep(file: Path, variances: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, variances)
    try:
        write_atomic(file, content.getvalue(), shared=True)
    except OSError as error:
        logger.info("the rotation floor is not kept in %s: %s", file, error.strerror or error)
