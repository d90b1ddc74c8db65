"""Charged particles: the public N-body benchmark, simulated here."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomformer.datasets.nbody import simulation as simulation
from geomformer.datasets.nbody.simulation import Systems
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import Progress, prepare_rows
from geomformer.errors import ConfigError
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import CONFORMER_SOURCES, Record

logger = logging.getLogger(__name__)

SEED = 43
NUM_PARTICLES = 5
SPLITS = ("train", "valid", "test")
NUM_SYSTEMS = (3_000, 2_000, 2_000)
"""Systems in the splits of the benchmark."""

STREAM = (10_000, 2_000, 2_000)
"""Systems that the public generator draws for each split, one split after another, from one stream of random numbers.
The benchmark uses the first ones of each."""

INPUT_FRAME, TARGET_FRAME = 30, 40
CHUNK, CHUNK_PAIRS = 200, 200_000
"""Systems, and at most so many pairs of particles, that are simulated at once: arrays that fit into the cache of a
core, with little overhead per array. No influence on the result."""


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Simulates the benchmark: positions and velocities at frame 30 (step 3,100), target positions at frame 40.

    With the default options this is the data of the public generator, after the cast to float32; see
    `nbody_simulation` for what that holds on. Fewer systems are the first ones of each split, whose start states stay
    the same; more than 10,000 / 2,000 / 2,000 draw more, so that the splits that follow are made of other systems.
    Other numbers of particles spread over the same volume per particle.

    Args:
        raw: nothing: there are no files.
        out: folder of the prepared dataset.
        data_root: not used.
        options: `seed` (43), `num_particles` (5), `num_systems` (3,000, 2,000, 2,000); `isotropic_clip`, a variant that
            is symmetric under rotations and is named "nbody-isotropic"; `all_windows`, "nbody-windows", whose train
            split has frames f and f + 10 of each trajectory for all f up to 30, where the benchmark has 30 and 40;
            `time_reversed`, "nbody-reversed", which has every window of the train split a second time, from its end
            with velocities turned round to its start; `limit` counts trajectories.
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        ConfigError: files are given, a number is out of range, or `out` holds something else.
    """
    if raw:
        raise ConfigError(f"Expected no files: N-body systems are simulated, found {raw[0]}.", "Leave it out.")
    plan = _plan(options)
    description = DatasetDescription(
        dataset=f"nbody{options.variant}",
        targets={},
        options=_recorded(plan),
        seed=plan.seed,
        particles=True,
        units={"positions": "", "target_positions": ""},
    )
    if simulation.power_rounding() != simulation.REFERENCE_ROUNDING:
        logger.warning(
            "This machine rounds powers otherwise than those with AVX-512, where the statistics of the N-body "
            "benchmark were taken: systems with close encounters, about 7 %, differ. This holds for the public "
            "generator, too."
        )
    return prepare_rows(
        _rows(plan),
        out,
        description,
        options.in_this_process(),
        build=_build,
        total=plan.rows[0] * len(plan.train_windows) + sum(plan.rows[1:]),
        bytes_per_row=40.0 * plan.num_particles + 60,
        progress=progress,
    )


@dataclass(frozen=True)
class Window:
    """From which frame a trajectory is followed, for as long as the benchmark does, and whether backwards in time."""

    frame: int
    backwards: bool = False

    @property
    def target(self) -> int:
        """The frame whose positions are to be found."""
        return self.frame + (INPUT_FRAME - TARGET_FRAME if self.backwards else TARGET_FRAME - INPUT_FRAME)

    @property
    def reversed(self) -> Window:
        return Window(self.target, not self.backwards)

    @property
    def steps(self) -> tuple[int, int, int]:
        """Those of the input's positions, of its velocities, and of the target. Minus the velocities of one step later
        lead back: with them the simulation runs backwards over the positions that it came along, to rounding.
        """
        here, there = simulation.step_of_frame(self.frame), simulation.step_of_frame(self.target)
        return here, here + self.backwards, there


OFFICIAL = Window(INPUT_FRAME)


@dataclass(frozen=True)
class _Plan:
    """What is asked for: particles, systems used of those drawn for each split, and the windows that train rows have
    of a system.
    """

    seed: int
    num_particles: int
    rows: tuple[int, ...]
    drawn: tuple[int, ...]
    isotropic_clip: bool
    train_windows: tuple[Window, ...]


def chunk_size(num_particles: int) -> int:
    """Returns how many systems are simulated at once."""
    return max(1, min(CHUNK, 2 * CHUNK_PAIRS // num_particles**2))


def _plan(options: PrepareOptions) -> _Plan:
    seed = SEED if options.seed is None else options.seed
    num_particles = NUM_PARTICLES if options.num_particles is None else options.num_particles
    num_systems = options.num_systems or NUM_SYSTEMS
    if not 0 <= seed < 2**32:
        raise ConfigError(f"Expected a seed from 0 to {2**32 - 1}, found {seed}.")
    if num_particles < 2:
        raise ConfigError(f"Expected at least two particles per system, found {num_particles}.")
    if min(num_systems) < 1:
        raise ConfigError(f"Expected at least one system in train, valid and test, found {num_systems}.")
    drawn = tuple(max(pair) for pair in zip(num_systems, STREAM, strict=True))
    rows = tuple(min(count, options.limit or count) for count in num_systems)
    windows = [Window(frame) for frame in range(INPUT_FRAME + 1)] if options.all_windows else [OFFICIAL]
    if options.time_reversed:
        windows += [window.reversed for window in windows]
    return _Plan(seed, num_particles, rows, drawn, options.isotropic_clip, tuple(windows))


def _recorded(plan: _Plan) -> dict[str, Any]:
    """Returns all numbers that the dataset depends on."""
    windows = {"train_windows": len(plan.train_windows)} if len(plan.train_windows) > 1 else {}
    backwards = {"time_reversed": True} if any(window.backwards for window in plan.train_windows) else {}
    return {
        "num_particles": plan.num_particles,
        "num_systems": dict(zip(SPLITS, plan.rows, strict=True)),
        "systems_drawn": dict(zip(SPLITS, plan.drawn, strict=True)),
        "position_std": simulation.position_std(plan.num_particles),
        "speed": simulation.SPEED,
        "wall": simulation.WALL,
        "time_step": simulation.TIME_STEP,
        "force_cap": simulation.FORCE_CAP,
        "force_cap_of": "norm" if plan.isotropic_clip else "component",
        "input_step": simulation.step_of_frame(INPUT_FRAME),
        "target_step": simulation.step_of_frame(TARGET_FRAME),
        **windows,
        **backwards,
        "power_rounding": simulation.power_rounding(),
    }


@dataclass
class _Chunk:
    """Systems that are simulated together, when the first of them is asked for."""

    start: Systems
    isotropic_clip: bool
    windows: tuple[Window, ...]

    @functools.cached_property
    def states(self) -> dict[int, Systems]:
        """By step."""
        steps = sorted({step for window in self.windows for step in window.steps})
        found = simulation.simulate(self.start, steps, isotropic_clip=self.isotropic_clip)
        return dict(zip(steps, found, strict=True))


@dataclass(frozen=True)
class _Row:
    """One window of a system on its way to its record: row `place` of a chunk."""

    index: int
    id: str
    split: str
    chunk: _Chunk
    place: int
    window: Window


def _rows(plan: _Plan) -> Iterator[_Row]:
    rng = np.random.RandomState(plan.seed)
    chunk = chunk_size(plan.num_particles)
    count = itertools.count()
    for split, used, drawn in zip(SPLITS, plan.rows, plan.drawn, strict=True):
        windows = plan.train_windows if split == "train" else (OFFICIAL,)
        for part, start in enumerate(simulation.stream(rng, used, drawn, plan.num_particles, chunk)):
            systems = _Chunk(start, plan.isotropic_clip, windows)
            for place, window in itertools.product(range(len(start)), windows):
                name = f"{split}-{part * chunk + place}"
                name += "" if window == OFFICIAL else f"-frame-{window.frame}" + "-backwards" * window.backwards
                yield _Row(next(count), name, split, systems, place, window)


def _build(row: _Row) -> Record:
    here, leading, there = (row.chunk.states[step] for step in row.window.steps)
    direction = -1 if row.window.backwards else 1
    return Record(
        id=row.id,
        positions=here.positions[row.place : row.place + 1].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        target_positions=there.positions[row.place].astype(np.float32),
        velocities=direction * leading.velocities[row.place].astype(np.float32),
        particle_charges=here.charges[row.place].astype(np.int8),
    )
