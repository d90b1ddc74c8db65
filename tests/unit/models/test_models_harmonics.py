"""The network of spherical harmonics: a layer by hand, its state, and e3nn only where it is asked for."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from checks.comparison import relative_error
from checks.systems import stack, system
from checks.variants import randomise
from torch import Tensor
from torch.nn.functional import silu

from geomformer.config.harmonics import HarmonicsConfig
from geomformer.errors import ConfigError
from geomformer.models import build_model
from geomformer.models.harmonics import TensorLayer, hidden_irreps, tensor_product
from geomformer.nn.harmonics import harmonics
from geomformer.records import Batch

o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
e3nn_math = pytest.importorskip("e3nn.math", reason="e3nn is not installed")

SMALL = HarmonicsConfig(
    num_layers=1, embed_dim=5, num_heads=1, channels_1=3, channels_2=2, num_kernels=4, atom_features=False
)
WIDTHS = {0: 5, 1: 3, 2: 2}


def network(config: HarmonicsConfig = SMALL) -> Any:
    return randomise(build_model(config)).double().eval()


def by_degree(z: Tensor, widths: dict[int, int]) -> dict[int, Tensor]:
    """Flat features (A, I) -> per degree l (A, C, 2 l + 1)."""
    parts = z.split([count * (2 * degree + 1) for degree, count in widths.items()], -1)
    return {
        degree: part.unflatten(-1, (count, -1)) for (degree, count), part in zip(widths.items(), parts, strict=True)
    }


def mixed(linear: Any, z: dict[int, Tensor], outputs: dict[int, int]) -> dict[int, Tensor]:
    """A map over channels for each degree, each divided by the root of its number of inputs."""
    found, used = {}, 0
    for degree, channels in z.items():
        rows, columns = channels.shape[1], outputs[degree]
        weight = linear.weight[used : used + rows * columns].view(rows, columns)
        used += rows * columns
        found[degree] = torch.einsum("acm,cd->adm", channels, weight) / rows**0.5
    assert used == linear.weight.numel()
    return found


def scaled_to_one(f: Any) -> Any:
    """f divided by the root of its second moment under the normal distribution, which e3nn draws samples for."""
    x = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)
    scaled = e3nn_math.normalize2mom(f)
    assert float(torch.trapezoid(scaled(x).square() * density, x)) == pytest.approx(1.0, abs=5e-3)
    return scaled


def messages_by_hand(
    layer: TensorLayer, up: dict[int, Tensor], x: Tensor, frequencies: Tensor
) -> dict[int, list[Tensor]]:
    """Sums over neighbours for each path (l1, l2, l3), by loops over atoms and coupling coefficients."""
    product = layer.product
    number, used, paths, cutoff = len(x), 0, [], SMALL.neighbour_cutoff
    for path in product.instructions:
        degrees = product.irreps_in1[path.i_in1].ir.l, path.i_in2, product.irreps_out[path.i_out].ir.l
        paths.append((path.i_out, degrees, used))
        used += product.irreps_in1[path.i_in1].mul
    assert used == product.weight_numel
    sums: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for _, (left, right, end), start in sorted(paths):
        coupling = o3.wigner_3j(left, right, end, dtype=torch.float64)
        total = torch.zeros(number, up[left].shape[1], 2 * end + 1, dtype=torch.float64)
        for i in range(number):
            for j in range(number):
                d = float((x[j] - x[i]).norm())
                if i == j or d >= cutoff:
                    continue
                kernels = torch.sin(frequencies * d) / d
                radial = layer.radial[2](silu(layer.radial[0](kernels)))[start : start + up[left].shape[1]]
                envelope = 0.5 * (math.cos(math.pi * d / cutoff) + 1.0)
                u = (x[j] - x[i]) / d
                y = (2 * right + 1) ** 0.5 * in_order_of_e3nn(u, right)
                joined = torch.einsum("ijk,ci,j->ck", coupling, up[left][j], y) * (2 * end + 1) ** 0.5
                total[i] += envelope * radial[:, None] * joined / SMALL.average_neighbours**0.5
        sums[end].append(total)
    return sums


def in_order_of_e3nn(u: Tensor, degree: int) -> Tensor:
    """Our harmonics; those of degree 2 have their polar axis along z, those of e3nn along y."""
    if degree < 2:
        return harmonics(u, degree)
    return harmonics(u[[2, 0, 1]], degree)


def test_layer_by_hand() -> None:
    torch.manual_seed(0)
    model, x = network(), 1.5 * torch.randn(4, 3).double()
    layer = model.layers[0]
    multiples = torch.arange(1, 5, dtype=torch.float64)
    assert torch.allclose(model.rbf.frequencies, multiples * math.pi / SMALL.neighbour_cutoff, rtol=1e-7)  # float32
    z = torch.randn(4, hidden_irreps(SMALL).dim, dtype=torch.float64)
    states = by_degree(z, WIDTHS)
    gated = {0: 10, 1: 3, 2: 2}  # five scalars more, the gates of the vectors and tensors
    with torch.no_grad():
        sums = messages_by_hand(layer, mixed(layer.up, states, WIDTHS), x, model.rbf.frequencies)
        joined = {degree: torch.cat(parts, 1) for degree, parts in sums.items()}
        out, itself = mixed(layer.out, joined, gated), mixed(layer.itself, states, gated)
        before = {degree: out[degree] + itself[degree] for degree in gated}
        gates = scaled_to_one(torch.sigmoid)(before[0][:, 5:])
        expected = [scaled_to_one(silu)(before[0][:, :5]).flatten(1)]
        expected += [(gates[:, :3] * before[1]).flatten(1), (gates[:, 3:] * before[2]).flatten(1)]
        found = layer_on(model, x, z)
    assert relative_error(found, torch.cat(expected, -1)) < 1e-12


def layer_on(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """What the first layer adds to the features z of one molecule at x."""
    given: dict[str, Any] = {}
    handle = model.layers[0].register_forward_pre_hook(lambda _, inputs: given.update(inputs=inputs))
    model(stack([system(x)]))
    handle.remove()
    return model.layers[0](z, *given["inputs"][1:])


def test_every_degree_reaches_every_degree() -> None:
    product = tensor_product(hidden_irreps(SMALL))
    ends = {(path.i_in1, product.irreps_out[path.i_out].ir.l) for path in product.instructions}
    assert ends == {(left, degree) for left in range(3) for degree in range(3)}
    assert {str(item.ir) for item in product.irreps_out} == {"0e", "1o", "2e"}, "no pseudovectors"


def batch_of(number: int) -> Batch:
    return stack([system(1.5 * torch.randn(number, 3).double())])


def test_coefficients_have_the_precision_of_the_network() -> None:
    """A network in float64 again, after it was stored in float32."""
    model = network().float().double()
    tables = {name: table for name, table in model.named_buffers() if "_w3j_" in name}
    assert len(tables) == 4
    for name, table in tables.items():
        degrees = [int(degree) for degree in name.split("_")[-3:]]
        assert torch.equal(table, o3.wigner_3j(*degrees, dtype=torch.float64))


def test_the_state_is_what_is_learnt() -> None:
    model = network()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    other = build_model(SMALL).double().eval()
    other.load_state_dict(model.state_dict(), strict=True)
    batch = batch_of(5)
    with torch.no_grad():
        assert torch.equal(other(batch).scalars, model(batch).scalars)
    incomplete = {name: value for name, value in model.state_dict().items() if name != "layers.0.up.weight"}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"layers.0.up.weight\""):
        other.load_state_dict(incomplete, strict=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole(copied: Any) -> None:
    model, batch = network(), batch_of(5)
    other = copied(model)
    assert set(other.state_dict()) == set(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(batch).vectors, model(batch).vectors)
        other.layers[0].up.weight.zero_()
        assert not torch.equal(other(batch).scalars, model(batch).scalars)
    assert all(table.dtype == torch.float32 for name, table in other.float().named_buffers() if "_w3j_" in name)


def test_degree_2_sees_what_vectors_cancel() -> None:
    """Neighbours along both directions of an axis: their vectors add up to nothing, their tensors do not."""
    model = network()
    x = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]]).double()
    z = torch.zeros(3, hidden_irreps(SMALL).dim, dtype=torch.float64)
    z[:, : WIDTHS[0]] = 1.0
    with torch.no_grad():
        middle = {degree: part[0] for degree, part in by_degree(layer_on(model, x, z), WIDTHS).items()}
    assert middle[1].abs().max() < 1e-12
    assert middle[2].abs().max() > 1e-3


def test_messages_end_smoothly_at_the_cutoff() -> None:
    model, cutoff = network(), SMALL.neighbour_cutoff
    lengths = torch.tensor([cutoff - 1e-3, cutoff, cutoff + 1e-3, 2.0 * cutoff]).double()
    batch = stack([system(torch.tensor([[0.0, 0, 0], [float(d), 0, 0]]).double()) for d in lengths])
    batch = replace(batch, atomic_numbers=torch.tensor([[6, 8]] * 4))
    with torch.no_grad():
        scalars = model(batch).scalars
    assert torch.allclose(scalars, scalars[-1].expand_as(scalars), atol=1e-5)
    assert torch.equal(scalars[1:], scalars[-1].expand_as(scalars[1:]))
    batch.positions.requires_grad_()
    (slopes,) = torch.autograd.grad(model(batch).scalars.sum(), batch.positions)
    assert slopes[1:].abs().max() < 1e-12
    assert 1e-9 < slopes[0].abs().max() < 1e-2


def test_e3nn_is_loaded_on_demand() -> None:
    code = (
        "import sys; from geomformer.config.painn import PaiNNConfig; from geomformer.models import build_model\n"
        "import geomformer.models.harmonics, geomformer_cli.app\n"
        "build_model(PaiNNConfig()); assert not [name for name in sys.modules if name.startswith('e3nn')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_e3nn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ConfigError, match="needs e3nn") as caught:
        build_model(SMALL)
    assert "geomformer[ablations]" in str(caught.value.hint)


def test_settings_of_e3nn_stay_as_they_were() -> None:
    import e3nn

    before = e3nn.get_optimization_defaults()
    build_model(SMALL)
    assert e3nn.get_optimization_defaults() == before
