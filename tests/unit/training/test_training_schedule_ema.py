from __future__ import annotations

import pytest
import torch
from torch import nn

from geomformer.config.run import OptimConfig
from geomformer.training.ema import WeightAverage
from geomformer.training.schedule import build_optimizer, learning_rate


def rates(max_steps: int = 100, **options: object) -> list[float]:
    config = OptimConfig(learning_rate=2e-4, **options)
    return [learning_rate(config, step, max_steps) for step in range(max_steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_rises_linearly_to_the_peak(schedule: str) -> None:
    found = rates(warmup_fraction=0.1, schedule=schedule)
    assert found[0] == pytest.approx(2e-5)
    assert found[4] == pytest.approx(1e-4)
    assert found[9] == found[10] == pytest.approx(2e-4)
    assert max(found) == pytest.approx(2e-4)


def test_decay_ends_one_step_before_zero() -> None:
    linear, cosine = rates(schedule="linear"), rates(schedule="cosine")
    assert linear[55] == pytest.approx(1e-4) and cosine[55] == pytest.approx(1e-4)
    assert linear[99] == pytest.approx(2e-4 / 90)
    assert 0 < cosine[99] < linear[99]
    config = OptimConfig(learning_rate=2e-4)
    assert learning_rate(config, 100, 100) == 0.0
    assert rates(schedule="constant")[99] == 2e-4


def test_no_warm_up_and_single_step_runs() -> None:
    assert rates(warmup_fraction=0.0)[0] == 2e-4
    assert rates(1, warmup_fraction=0.9) == [2e-4]


def test_the_optimiser_is_the_configured_one() -> None:
    layer = nn.Linear(2, 2)
    options = OptimConfig(name="adam", betas=(0.8, 0.9), eps=1e-6, weight_decay=0.01)
    adam, adamw = build_optimizer(options, layer), build_optimizer(OptimConfig(), layer)
    assert isinstance(adam, torch.optim.Adam) and isinstance(adamw, torch.optim.AdamW)
    assert not adam.defaults["decoupled_weight_decay"]
    assert (adam.defaults["betas"], adam.defaults["eps"], adam.defaults["weight_decay"]) == ((0.8, 0.9), 1e-6, 0.01)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_equals_a_plain_loop(decay: float) -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, decay)
    expected = layer.weight.detach().double()
    for step in range(40):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        average.update(step)
        factor = min(decay, (1 + step) / (10 + step))
        expected = factor * expected + (1 - factor) * layer.weight.detach().double()
    torch.testing.assert_close(average.state_dict()["weight"].double(), expected, rtol=1e-5, atol=1e-6)
    if decay == 0.0:
        assert torch.equal(average.state_dict()["weight"], layer.weight)


def test_applied_swaps_and_restores_even_after_an_error() -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, 0.9)
    first = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    with pytest.raises(KeyError), average.applied():
        assert torch.equal(layer.weight, first)
        raise KeyError
    assert layer.weight.abs().max() == 0
    assert torch.equal(average.state_dict()["weight"], first)


def test_state_comes_back_into_another_average() -> None:
    layer = nn.Linear(3, 2)
    average, other = WeightAverage(layer, 0.9), WeightAverage(nn.Linear(3, 2), 0.9)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.average, average.average, strict=True))
    with torch.no_grad():
        layer.weight.zero_()
    average.update(5)
    assert not torch.equal(other.state_dict()["weight"], average.state_dict()["weight"])
