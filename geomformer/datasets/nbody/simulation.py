"""The charged N-body benchmark: random start states and their trajectories, in plain numpy.

The bits matter: in a close encounter the last digit of a force decides where the particles go, so that a formula that
is equal on paper gives other data. The operations and their order are therefore those of the public generator
(github.com/vgsatorras/egnn, `n_body_system/dataset`, as run by `--num-train 10000 --seed 43 --sufix small`), for all
systems at once:

- squared distances are |a|^2 + |b|^2 - 2 a.b, with the dot product rounded as the linear algebra library behind numpy
  does it, by fused multiply-adds in the order x, y, z. These are composed here of ordinary operations, so that no
  processor and no library has a say;
- the power 3/2 is `numpy.power`, the one operation whose last bit depends on the machine: numpy has its own routine
  for x86-64 Linux with AVX-512 and takes the C library's elsewhere. `power_rounding` tells which is at work.

Guaranteed, in any division into chunks: on one machine the same float64 numbers as the public generator for up to
seven particles (beyond, numpy adds in another order), if the library it uses there has fused multiply-adds, as
OpenBLAS has on every processor since about 2013. Over machines: the same float64 numbers where `power_rounding` is the
same; where it is not, about 7 % of the trajectories, those with close encounters, differ in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TIME_STEP = 0.001
FORCE_CAP = 0.1 / TIME_STEP
SPEED = 0.5
WALL = 5.0
STEPS_PER_FRAME = 100
NUM_FRAMES = 49
REFERENCE_ROUNDING = "65f8200eb760"
"""`power_rounding` of the machines on which the published statistics of this data were taken (AVX-512)."""

_SPLITTER = 2.0**27 + 1


@dataclass(frozen=True)
class Systems:
    """States of S systems of N particles of mass 1, in benchmark units.

    Attributes:
        charges: +1 or -1. (S, N) float64
        positions, velocities: (S, N, 3) float64
    """

    charges: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    def __len__(self) -> int:
        return len(self.charges)

    def __getitem__(self, rows: slice) -> Systems:
        return Systems(self.charges[rows], self.positions[rows], self.velocities[rows])


def power_rounding() -> str:
    """Returns a fingerprint of how `numpy.power` rounds x^(3/2) on this machine."""
    return hashlib.sha256(np.power(np.arange(1.0, 4097.0) / 256, 1.5).tobytes()).hexdigest()[:12]


def step_of_frame(frame: int) -> int:
    """Returns the time step that a frame of the benchmark holds: frame 0 is step 100."""
    return STEPS_PER_FRAME * (frame + 1)


def position_std(num_particles: int) -> float:
    """Returns the standard deviation of start positions: the same volume per particle for any number of them."""
    return float((num_particles / 5.0) ** (1 / 3))


def start_states(rng: np.random.RandomState, count: int, num_particles: int) -> Systems:
    """Draws the next `count` systems of the stream.

    Charges are +1 or -1; positions normal with standard deviation (N / 5)^(1/3); velocities have random directions and
    speed 0.5. Coordinates beyond the walls at +-5 are reflected; there are no walls later on. The generator's noise
    of every frame, which has weight zero, is drawn too: it moves the stream on.
    """
    charges = np.empty((count, num_particles))
    positions = np.empty((count, 3, num_particles))
    velocities = np.empty((count, 3, num_particles))
    for i in range(count):
        charges[i] = rng.choice(np.array([-1.0, 0.0, 1.0]), size=num_particles, p=[0.5, 0.0, 0.5])
        positions[i] = rng.randn(3, num_particles)
        velocities[i] = rng.randn(3, num_particles)
        rng.randn(2 * NUM_FRAMES * 3 * num_particles)
    positions *= position_std(num_particles)
    squares = velocities * velocities
    velocities = velocities * SPEED / np.sqrt(squares[:, :1] + squares[:, 1:2] + squares[:, 2:])
    beyond = np.abs(positions) > WALL
    velocities[beyond] = -np.copysign(velocities[beyond], positions[beyond])
    positions[beyond] = np.copysign(2 * WALL, positions[beyond]) - positions[beyond]
    return Systems(charges, positions.transpose(0, 2, 1), velocities.transpose(0, 2, 1))


def stream(rng: np.random.RandomState, used: int, drawn: int, num_particles: int, chunk: int) -> Iterator[Systems]:
    """Draws `drawn` systems and yields the first `used` of them, `chunk` at a time."""
    for start in range(0, drawn, chunk):
        systems = start_states(rng, min(chunk, drawn - start), num_particles)
        if start < used:
            yield systems[: used - start]


def simulate(systems: Systems, steps: Sequence[int], *, isotropic_clip: bool = False) -> list[Systems]:
    """Follows trajectories by the semi-implicit Euler method and returns the states after the given steps.

    Like charges repel with 1 / r^2, without softening. Each Cartesian component of a particle's force is limited to
    +-100, so that the benchmark is not symmetric under rotations; with `isotropic_clip` its norm is limited to 100.

    Args:
        systems: start states.
        steps: ascending, from 1.
        isotropic_clip: how forces are limited.

    Returns:
        One state per entry of `steps`. Positions are those after the step, velocities those that led there.
    """
    first, second = np.triu_indices(systems.charges.shape[1], 1)
    charges = systems.charges.T.copy()
    strengths = charges[first] * charges[second]
    x = systems.positions.transpose(2, 1, 0).copy()
    v = systems.velocities.transpose(2, 1, 0).copy()
    limit = _limit_norm if isotropic_clip else _limit_components
    states = []
    for step in range(1, max(steps) + 1):
        v += TIME_STEP * limit(_forces(x, strengths, first, second))
        x += TIME_STEP * v
        if step in steps:
            states.append(Systems(systems.charges, x.transpose(2, 1, 0).copy(), v.transpose(2, 1, 0).copy()))
    return states


def _forces(x: np.ndarray, strengths: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns forces (3, N, S) at positions x (3, N, S) from q_i q_j of every pair (P, S)."""
    a, b = x.take(first, axis=1), x.take(second, axis=1)
    norms = _sum_of_three(x * x)
    squared = norms.take(first, axis=0)
    squared += norms.take(second, axis=0)
    squared -= 2 * _dot(x, a, b, first, second)
    pairs = a
    pairs -= b
    pairs *= strengths / np.power(squared, 1.5)
    forces = np.zeros_like(x)
    start = 0
    for i in range(x.shape[1] - 1):
        stop = start + x.shape[1] - 1 - i
        for j in range(start, stop):
            forces[:, i] += pairs[:, j]
        forces[:, i + 1 :] -= pairs[:, start:stop]
        start = stop
    return forces


def _sum_of_three(values: np.ndarray) -> np.ndarray:
    total: np.ndarray = values[0] + values[1]
    total += values[2]
    return total


def _dot(x: np.ndarray, a: np.ndarray, b: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns a.b of every pair (P, S): x x' rounded, then y y' and z z' added with one rounding each.

    Args:
        x: positions. (3, N, S)
        a, b: positions of the first and the second particle of every pair. (3, P, S)
        first, second: numbers of these particles. (P,)
    """
    high, low = _halves(x[1:])
    a_high, a_low, b_high, b_low = (half.take(pair, axis=1) for pair in (first, second) for half in (high, low))
    product = a * b
    # What rounding took from the product, exactly: products of halves are exact (Dekker 1971).
    error = a_high * b_high
    error -= product[1:]
    a_high *= b_low
    error += a_high
    b_high *= a_low
    error += b_high
    a_low *= b_low
    error += a_low
    return _add(_add(product[0], product[1], error[0]), product[2], error[1])


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the upper and the lower 26 bits of numbers: two numbers that add up to them."""
    shifted = _SPLITTER * x
    high = shifted - (shifted - x)
    return high, x - high


def _add(addend: np.ndarray, product: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Returns addend + (product + error), rounded once: a fused multiply-add.

    What rounding took from addend + product is found exactly (Knuth's two-sum).
    """
    total = addend + product
    part = total - addend
    lost = addend - (total - part)
    part -= product
    lost -= part
    lost += error
    lost += total
    return lost


def _limit_components(forces: np.ndarray) -> np.ndarray:
    np.maximum(forces, -FORCE_CAP, out=forces)
    return np.minimum(forces, FORCE_CAP, out=forces)


def _limit_norm(forces: np.ndarray) -> np.ndarray:
    norms = np.sqrt(_sum_of_three(forces * forces))
    forces *= FORCE_CAP / np.maximum(norms, FORCE_CAP)
    return forces
