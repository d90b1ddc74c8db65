"""Whole training steps of the N-body and MD17 presets against a plain version of the same step and against their floor.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_steps.py --repeats 30

A step is everything between two batches: forward pass, loss, backward pass, clipping, optimiser and average of the
weights. The plain one computes the same from the same weights as one would write it first: attention by two einsums,
torch's dropout, whitening by `torch.linalg.inv`, one loop over the parameters for the average. The floor is the
time of the projection products alone (`geomformer.benchmark`), three times those of a forward pass, or six times where
forces are the gradient of the energy: each of the two products that the slope adds is differentiated twice.

The steps take turns, so that ratios hold on a shared machine. On a GPU every step is waited for. `--compile` adds the
step with the network compiled by `torch.compile(mode="reduce-overhead")`, which records CUDA graphs on a GPU; slopes of
compiled networks cannot be trained, so that it leaves out models with a gradient for forces.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.benchmark import STEP_PER_FORWARD, floor_products, medians, random_batch
from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.devices import resolve_device
from geomformer.models import build_model
from geomformer.models import geomformer as network
from geomformer.nn import attention, block, feedforward, heads, ops
from geomformer.nn.attention import InvariantCrossAttention
from geomformer.nn.norms import FLOOR, EquivariantLayerNorm
from geomformer.records import Batch
from geomformer.tasks import FORCES, POSITIONS, build_task
from geomformer.tasks.base import Scaling, Task
from geomformer.tasks.differentiation import by_positions, derivatives
from geomformer.training.ema import WeightAverage
from geomformer.training.schedule import build_optimizer

CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("nbody-small", 5, ()),
    ("nbody-paper", 5, ()),
    ("md17-small", 21, ()),
    ("md17-small", 21, ("task.forces=conservative",)),
    ("md17-paper", 21, ()),
)
"""Preset, atoms of a system (those of aspirin for MD17), changes."""

SLOPE_PER_FORWARD = 6
ITERATIONS = 8
AGREEMENT = 1e-4
"""How far the losses of both steps may be apart, relative, without dropout."""


def plain_attend(q_BHNC: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, bias_BHNM: Tensor, dropout: float = 0.0) -> Tensor:
    logits = torch.einsum("bhnc,bhmc->bhnm", q_BHNC, k_BHMC) * q_BHNC.shape[-1] ** -0.5 + bias_BHNM
    return torch.einsum("bhnm,bhmc->bhnc", F.dropout(torch.softmax(logits, -1), dropout), v_BHMC)


def plain_drop(x: Tensor, p: float, shape: Sequence[int] | None = None) -> Tensor:
    return F.dropout(x, p) if shape is None else x * F.dropout(x.new_ones(shape), p)


def plain_add(z: Tensor, increment: Tensor, channel_p: float, path_p: float) -> Tensor:
    kept = plain_drop(increment, channel_p, ops.channel_shape(z))
    return z + plain_drop(kept, path_p, (len(z),) + (1,) * (z.dim() - 1))


def plain_norm(self: EquivariantLayerNorm, z_BN3D: Tensor, mask_BN: Tensor) -> Tensor:
    """Whitening by the iteration of Denman and Beavers, which ends at the square root and its inverse.

    Eigenvectors would be plainer still, but their slopes are NaN at equal eigenvalues, which the first layer's have.
    """
    z = z_BN3D - z_BN3D.mean(-1, keepdim=True)
    covariance = torch.einsum("bnxd,bnyd->bnxy", z, z) / z.shape[-1]
    trace = torch.einsum("bnxx->bn", covariance)[..., None, None]
    identity = torch.eye(3, dtype=z.dtype, device=z.device)
    root, inverse = covariance + (self.eps / 3.0 * trace + FLOOR) * identity, identity
    for _ in range(ITERATIONS):
        root, inverse = (root + torch.linalg.inv(inverse)) / 2, (inverse + torch.linalg.inv(root)) / 2
    return torch.einsum("bnxy,bnyd->bnxd", inverse, z) * self.gamma


def plain_cross(self: InvariantCrossAttention, z_inv_BND: Tensor, z_equ_BN3D: Tensor, bias_BHNN: Tensor) -> Tensor:
    k1, v1, k2, v2 = self.kv(z_equ_BN3D).chunk(4, -1)
    k, v = torch.einsum("bnxd,bnxd->bnd", k1, k2), torch.einsum("bnxd,bnxd->bnd", v1, v2)
    q_BHNC, k_BHNC, v_BHNC = (a.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for a in (self.q(z_inv_BND), k, v))
    return self.out(plain_attend(q_BHNC, k_BHNC, v_BHNC, bias_BHNN, self.active_dropout).transpose(1, 2).flatten(-2))


PLAIN: tuple[tuple[Any, str, Any], ...] = (
    (attention, "attend", plain_attend),
    *((module, "drop", plain_drop) for module in (ops, feedforward, heads, network)),
    (block, "add_dropped", plain_add),
    (EquivariantLayerNorm, "forward", plain_norm),
    (InvariantCrossAttention, "forward", plain_cross),
)
"""Where a function is looked up, its name there, and what takes its place."""


@contextmanager
def plainly() -> Iterator[None]:
    """Inside, networks compute as one would write it first."""
    kept = [getattr(place, name) for place, name, _ in PLAIN]
    for place, name, plain in PLAIN:
        setattr(place, name, plain)
    try:
        yield
    finally:
        for (place, name, _), ours in zip(PLAIN, kept, strict=True):
            setattr(place, name, ours)


class PlainAverage:
    """The average of the weights, parameter by parameter."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = list(model.parameters())
        self.decay = decay
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.mul_(decay).add_(parameter, alpha=1.0 - decay)


@dataclass
class Step:
    """One training step of a network on a batch, again and again."""

    config: RunConfig
    task: Task
    batch: Batch
    model: nn.Module
    run: Callable[[Batch], Any]
    """The network as it is called: itself, or compiled."""
    optimizer: torch.optim.Optimizer
    average: WeightAverage | PlainAverage

    def losses(self) -> Tensor:
        if not self.config.task.differentiates:
            return self.task.losses(self.run(self.batch), self.batch, 0.5)["total"]
        with derivatives():
            batch = by_positions(self.batch)
            return self.task.losses(self.run(batch), batch, 0.5)["total"]

    def __call__(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        (self.losses() / self.batch.num_systems).backward()
        if self.config.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.average.update(1000)


def make_step(config: RunConfig, batch: Batch, device: str, *, plain: bool = False, compiled: bool = False) -> Step:
    torch.manual_seed(0)
    model = build_model(config.model).to(device)
    if model.vector_head is not None:  # it starts at zero, where both steps agree on anything
        torch.nn.init.normal_(model.vector_head.out.weight)
    units = Scaling()
    task = build_task(config.task, {POSITIONS: units, FORCES: units, "energy": units})
    optimizer = build_optimizer(config.optim, model)
    average = (PlainAverage if plain else WeightAverage)(model, config.train.ema_decay)
    if plain:
        kind, (group,) = type(optimizer), optimizer.param_groups
        given = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        optimizer = kind(model.parameters(), **given)
    run = torch.compile(model, mode="reduce-overhead", dynamic=False) if compiled else model
    return Step(config, task, batch, model, run, optimizer, average)


def labelled(config: RunConfig, atoms: int, device: str) -> Batch:
    """A batch of the size of the preset, with every label."""
    batch = random_batch(config, config.data.batch_size, atoms)
    noise = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(1))
    energies = torch.linspace(-1.0, 1.0, batch.num_systems)
    moved = batch.positions + noise
    return replace(batch, target_positions=moved, forces=noise, targets={"energy": energies}).to(device)


def check(ours: Step, plain: Step) -> None:
    """Makes sure that both steps compute the same, dropout aside."""
    values = []
    for step, inside in ((ours, nullcontext()), (plain, plainly())):
        step.model.eval()
        with inside:
            values.append(step.losses().detach())
    if not torch.allclose(values[0], values[1], rtol=AGREEMENT):
        raise SystemExit(f"the plain step computes something else: {values}")


def measure(preset: str, atoms: int, changes: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    device = arguments.device
    config = load_config(preset, list(changes))
    batch = labelled(config, atoms, device)
    ours, plain = make_step(config, batch, device), make_step(config, batch, device, plain=True)
    check(ours, plain)
    floor = floor_products(config, int(batch.mask.sum()), device, torch.float32)
    if floor is None:
        raise SystemExit(f"{preset} has no floor: its architecture is {config.model.architecture}")

    def plain_step() -> None:
        with plainly():
            plain()

    steps: list[Callable[[], None]] = [floor, ours, plain_step]
    if arguments.compile and not config.task.differentiates:
        steps.append(make_step(config, batch, device, compiled=True))
    floor_ms, ours_ms, plain_ms, *compiled_ms = medians(steps, device, arguments.repeats)
    floor_ms *= SLOPE_PER_FORWARD if config.task.differentiates else STEP_PER_FORWARD
    return {
        "name": " ".join([preset, *(change.split("=")[1] for change in changes)]),
        "size": f"{batch.num_systems} x {atoms}",
        "ours_ms": ours_ms,
        "per_second": 1e3 / ours_ms,
        "plain": plain_ms / ours_ms,
        "floor": ours_ms / floor_ms,
        "compiled": ours_ms / compiled_ms[0] if compiled_ms else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", help="only this one; may be repeated")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    arguments.device = resolve_device(arguments.device)
    print("| preset | systems x atoms | step, ms | steps/s | plain / step | step / floor | step / compiled |")
    print("|---|---|---|---|---|---|---|")
    for preset, atoms, changes in CASES:
        if arguments.preset and preset not in arguments.preset:
            continue
        r = measure(preset, atoms, changes, arguments)
        compiled = "-" if r["compiled"] is None else f"{r['compiled']:.2f}"
        print(
            f"| {r['name']} | {r['size']} | {r['ours_ms']:.1f} | {r['per_second']:.1f} | {r['plain']:.2f} | "
            f"{r['floor']:.2f} | {compiled} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
