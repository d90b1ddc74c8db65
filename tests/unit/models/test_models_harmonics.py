"""The network of spherical harmonics: a tensor product by hand, and e3nn only where it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from geomformer.config.harmonics import HarmonicsConfig
from geomformer.errors import ConfigError
from geomformer.models import build_model
from geomformer.models.harmonics import hidden_irreps, tensor_product

o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")

SMALL = HarmonicsConfig(num_layers=1, embed_dim=5, num_heads=1, channels_1=3, channels_2=2)


def test_tensor_product_by_coupling_coefficients() -> None:
    """Every path by loops over components: the coefficients of (l1, l2, l3), components normalised."""
    irreps = hidden_irreps(SMALL)
    product = tensor_product(irreps).double()
    z, u = torch.randn(irreps.dim, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    y = o3.spherical_harmonics([0, 1, 2], u, normalize=True, normalization="component")
    weights = torch.randn(product.weight_numel, dtype=torch.float64)
    out, used = torch.zeros(product.irreps_out.dim, dtype=torch.float64), 0
    sharing = [sum(other.i_out == path.i_out for other in product.instructions) for path in product.instructions]
    for path, paths_to_it in zip(product.instructions, sharing, strict=True):
        (mul, left), (_, right) = irreps[path.i_in1], product.irreps_in2[path.i_in2]
        _, end = product.irreps_out[path.i_out]
        coefficients = o3.wigner_3j(left.l, right.l, end.l).double()
        a = z[irreps.slices()[path.i_in1]].view(mul, left.dim)
        b, place = y[product.irreps_in2.slices()[path.i_in2]], product.irreps_out.slices()[path.i_out]
        w = weights[used : used + mul]
        used += mul
        for channel in range(mul):
            for k in range(end.dim):
                total = sum(
                    coefficients[i, j, k] * a[channel, i] * b[j] for i in range(left.dim) for j in range(right.dim)
                )
                out[place.start + channel * end.dim + k] += w[channel] * (end.dim / paths_to_it) ** 0.5 * total
    assert used == product.weight_numel
    assert torch.allclose(product(z[None], y[None], weights[None])[0], out, rtol=1e-6, atol=1e-6)


def test_every_degree_reaches_every_degree() -> None:
    product = tensor_product(hidden_irreps(SMALL))
    ends = {(path.i_in1, product.irreps_out[path.i_out].ir.l) for path in product.instructions}
    assert ends == {(left, degree) for left in range(3) for degree in range(3)}
    assert {str(item.ir) for item in product.irreps_out} == {"0e", "1o", "2e"}, "no pseudovectors"


def test_e3nn_is_loaded_on_demand() -> None:
    code = (
        "import sys; from geomformer.config.painn import PaiNNConfig; from geomformer.models import build_model\n"
        "build_model(PaiNNConfig()); assert not [name for name in sys.modules if name.startswith('e3nn')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_e3nn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(ConfigError, match="needs e3nn") as caught:
        build_model(SMALL)
    assert "geomformer[ablations]" in str(caught.value.hint)
