"""Attention product, safe norms, dropouts, feed-forward and heads."""

from __future__ import annotations

import pytest
import torch
from checks import reference_block as plain
from checks.systems import orthogonal
from checks.variants import randomise
from torch.nn import functional as F

from geomformer.nn.attention import EquivariantSelfAttention, InvariantSelfAttention
from geomformer.nn.block import BlockOptions, GeoMFormerBlock
from geomformer.nn.feedforward import EquivariantFeedForward
from geomformer.nn.heads import ScalarHead, VectorHead
from geomformer.nn.ops import add_dropped, attend, channel_drop, direction, drop, safe_norm


@pytest.mark.parametrize("bias_heads", [3, 1])
def test_attend_is_softmax_attention(bias_heads: int) -> None:
    q, k, v = (torch.randn(2, 3, 5, 4).double() for _ in range(3))
    bias = torch.randn(2, bias_heads, 5, 5).double()
    bias[1, :, :, 3:] = float("-inf")
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(2, 3, 5, 5))
    assert torch.allclose(attend(q, k, v, bias), expected, atol=1e-14)


def test_attend_drops_weights_and_rescales() -> None:
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1000, 2)
    out = attend(q, k, torch.ones(1, 1, 1000, 2), torch.zeros(1, 1, 1, 1000), dropout=0.4)
    assert not torch.equal(out, torch.ones_like(out))
    assert abs(out[0, 0, 0, 0] - 1.0) < 0.15


def test_second_derivative_of_attend() -> None:
    q, k, v = (torch.randn(1, 2, 3, 2).double().requires_grad_() for _ in range(3))
    bias = torch.randn(1, 2, 3, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(attend, (q, k, v, bias))


def test_safe_norm() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]).double().requires_grad_()
    assert torch.equal(safe_norm(x), torch.tensor([5.0, 0.0]).double())
    (first,) = torch.autograd.grad(safe_norm(x).sum(), x, create_graph=True)
    assert torch.allclose(first, torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]).double())
    (second,) = torch.autograd.grad(first[:, 0].sum(), x)
    assert torch.isfinite(second).all()
    assert not second[1].any()


def test_direction() -> None:
    x = torch.tensor([[30.0, 40.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.0]]).double()
    assert torch.allclose(
        direction(x, 0.1), torch.tensor([[0.6, 0.8, 0.0], [0, 0, 0], [0, 0.5**0.5, 0]]).double(), atol=1e-5
    )
    assert torch.autograd.gradcheck(lambda r: direction(r, 0.1), (x.requires_grad_(),))


@pytest.mark.parametrize(("p", "dropped"), [(0.25, 64), (0.1, 26), (1e-6, 1), (1 - 1e-6, 255)])
def test_drop_keeps_the_mean_at_a_rate_of_bytes(p: float, dropped: int) -> None:
    x = torch.full((1_000_003,), 2.0, dtype=torch.float64, requires_grad=True)
    out = drop(x, p)
    assert set(out.unique().tolist()) == {0.0, 2.0 * 256 / (256 - dropped)}
    spread = (dropped / 256 * (1 - dropped / 256) / len(x)) ** 0.5
    assert abs((out == 0.0).double().mean().item() - dropped / 256) < 5 * spread
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(slope, out.detach() / 2.0)


def test_drop_is_drawn_from_the_seed() -> None:
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(drop(torch.ones(7, 5), 0.5))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert drop(draws[0], 0.0) is draws[0]


def test_channel_drop_drops_whole_vectors() -> None:
    z = torch.rand(2, 50, 3, 8) + 1.0
    out = channel_drop(z, 0.25)
    dropped = out == 0.0
    assert torch.equal(dropped.any(2), dropped.all(2))
    assert 0.15 < dropped.float().mean() < 0.35
    assert torch.allclose(out[~dropped], z[~dropped] / 0.75)


@pytest.mark.parametrize("shape", [(400, 5, 8), (400, 5, 3, 8)])
def test_increments_lose_channels_and_whole_molecules(shape: tuple[int, ...]) -> None:
    z, increment = torch.randn(shape), torch.ones(shape)
    assert torch.equal(add_dropped(z, increment, 0.0, 0.0), z + 1.0)

    path = (add_dropped(z, increment, 0.0, 0.25) - z).flatten(1)
    assert torch.allclose(path, path[:, :1].expand_as(path), atol=1e-5)
    assert 0.15 < (path[:, 0].abs() < 1e-5).float().mean() < 0.35

    torch.manual_seed(0)
    both = add_dropped(z, increment, 0.5, 0.25) - z
    torch.manual_seed(0)
    channels = add_dropped(z, increment, 0.5, 0.0) - z
    kept = both.flatten(1).abs().amax(1) > 1e-5
    assert 0.65 < kept.float().mean() < 0.85
    assert torch.allclose(both[kept], channels[kept] / 0.75, atol=1e-5)
    assert 0.45 < (channels.abs() < 1e-5).float().mean() < 0.55
    assert not torch.allclose(channels, channels[..., :1].expand_as(channels), atol=1e-5)
    if len(shape) == 4:
        assert torch.allclose(channels, channels[:, :, :1].expand_as(channels), atol=1e-5)


def test_dropout_in_training_turns_with_the_input() -> None:
    """For each draw of the random numbers the block commutes with rotations."""
    options = BlockOptions(
        dim=12,
        ffn_dim=16,
        num_heads=3,
        attention_dropout=0.2,
        activation_dropout=0.2,
        hidden_dropout=0.2,
        drop_path=0.2,
    )
    block = randomise(GeoMFormerBlock(options)).double().train()
    z_inv, z_equ, matrix = torch.randn(3, 5, 12).double(), torch.randn(3, 5, 3, 12).double(), orthogonal(-1)
    bias, mask = torch.zeros(3, 1, 5, 5).double(), torch.ones(3, 5, dtype=torch.bool)

    def run(seed: int, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        return block(z_inv, z, bias, mask)

    def turn(z: torch.Tensor) -> torch.Tensor:
        return torch.einsum("xy,bnyd->bnxd", matrix, z)

    (inv, equ), (inv_turned, equ_turned) = run(1, z_equ), run(1, turn(z_equ))
    assert torch.allclose(inv_turned, inv, atol=1e-12)
    assert torch.allclose(equ_turned, turn(equ), atol=1e-12)
    assert not torch.allclose(run(2, z_equ)[0], inv)
    block.eval()
    assert torch.equal(run(1, z_equ)[1], run(2, z_equ)[1])


def test_maps_of_vectors_have_no_bias() -> None:
    modules = (EquivariantSelfAttention(8, 2), EquivariantFeedForward(8, 16), VectorHead(8))
    zero, inv = torch.zeros(1, 4, 3, 8), torch.randn(1, 4, 8)
    outputs = (
        modules[0](zero, torch.zeros(1, 1, 4, 4)),
        randomise(modules[1])(zero, inv),
        randomise(modules[2])(inv, zero),
    )
    assert not any(bool(output.any()) for output in outputs)


def test_heads_of_the_two_streams_have_the_same_logit_scale() -> None:
    """1 / sqrt(d) for invariant and 1 / sqrt(3 d) for equivariant heads keep unit logits at unit input."""
    shapes = ((InvariantSelfAttention(64, 2), (2, 9, 64)), (EquivariantSelfAttention(64, 2), (2, 9, 3, 64)))
    for module, shape in shapes:
        split = module.split_inv if len(shape) == 3 else module.split_equ
        (q,), (k,) = split(torch.randn(shape)), split(torch.randn(shape))
        logits = q @ k.mT * q.shape[-1] ** -0.5
        assert 0.8 < logits.std() < 1.2


@pytest.mark.parametrize("pooling", ["mean", "sum", "attention"])
def test_scalar_head_reads_only_what_counts(pooling: str) -> None:
    head = randomise(ScalarHead(8, 2, pooling, num_heads=4))
    z, weight = torch.randn(2, 5, 8), torch.tensor([[1.0] * 5, [1.0, 1.0, 0.0, 1.0, 0.0]])
    out = head(z, weight)
    z[1, 2], z[1, 4] = 1e3, -1e3
    assert torch.allclose(head(z, weight), out, atol=1e-5)
    assert torch.allclose(head(z[1:, [0, 1, 3]], weight[1:, [0, 1, 3]]), out[1:], atol=1e-5)


def test_sum_adds_up_and_mean_does_not_grow() -> None:
    z = torch.randn(1, 4, 8)
    twice, one = torch.cat([z, z], 1), torch.ones(1, 4)
    for pooling, factor in (("sum", 2.0), ("mean", 1.0), ("attention", 1.0)):
        head = randomise(ScalarHead(8, 2, pooling, num_heads=4))
        assert torch.allclose(head(twice, torch.ones(1, 8)), factor * head(z, one), atol=1e-5), pooling


def test_sum_is_the_printed_sum() -> None:
    head = randomise(ScalarHead(8, 2, "sum")).double()
    z, weight = torch.randn(1, 4, 8).double(), torch.tensor([[1.0, 0.0, 1.0, 1.0]]).double()
    atoms = [plain.mapped(plain.gelu(plain.mapped(z[0, i], head.atom)), head.out) for i in (0, 2, 3)]
    assert torch.allclose(head(z, weight)[0], sum(atoms), atol=1e-12)


def test_vector_head_starts_at_zero() -> None:
    head = VectorHead(8, 2)
    head.reset_last()
    assert not head(torch.randn(1, 4, 8), torch.randn(1, 4, 3, 8)).any()
