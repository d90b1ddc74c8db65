"""The mean of several networks."""

from __future__ import annotations

import pytest
import torch
from checks.systems import stack, system
from checks.variants import build

from geomformer.models import build_model
from geomformer.records import Batch


@pytest.fixture
def batch() -> Batch:
    return stack([system(2.0 * torch.randn(n, 3).double()) for n in (7, 5)])


@pytest.mark.parametrize("outputs", [{}, {"num_scalars": 0}, {"num_vectors": 0}], ids=["both", "vectors", "scalars"])
@torch.no_grad()
def test_the_answer_is_the_mean_of_the_answers(outputs: dict[str, int], batch: Batch) -> None:
    networks = [build(num_layers=2, **outputs) for _ in range(3)]
    config = networks[0].config.model_copy(update={"members": 3})
    committee = build_model(config).double().eval()
    for member, network in zip(committee.networks, networks, strict=True):
        member.load_state_dict(network.state_dict())
    found, each = committee(batch), [network(batch) for network in networks]
    for name in ("scalars", "vectors"):
        answers = [getattr(output, name) for output in each]
        if f"num_{name}" in outputs:
            assert getattr(found, name) is None
            continue
        torch.testing.assert_close(getattr(found, name), sum(answers) / 3)
        assert (answers[0] - answers[1]).abs().max() > 1e-3
    assert len(found.z_inv) == len(found.z_equ) == 3
    assert committee.num_parameters == 3 * networks[0].num_parameters
    if found.scalars is not None:
        weight = torch.rand(batch.mask.shape).double()
        expected = sum(network(batch, weight).scalars for network in networks) / 3
        torch.testing.assert_close(committee(batch, weight).scalars, expected)


def test_members_start_apart(batch: Batch) -> None:
    committee = build_model(build(num_layers=1).config.model_copy(update={"members": 2}))
    first, second = (dict(network.named_parameters()) for network in committee.networks)
    assert any(not torch.equal(first[name], second[name]) for name in first)
