from __future__ import annotations

import torch

from geomformer.benchmark import random_batch
from geomformer.config.load import load_config
from geomformer.models import build_model


def test_gradients_are_the_same_in_every_run_on_several_threads() -> None:
    """Plain indexing of a table is not: its gradient is summed by competing threads."""
    small = ["model.num_layers=1", "model.embed_dim=16", "model.ffn_dim=16", "model.num_heads=2"]
    for change in ("model.kernel_affine=factorised", "model.kernel_affine=pairwise"):
        config = load_config("gap-small", [*small, change])
        model = build_model(config.model)
        batch = random_batch(config, 48, 18)
        gradients = []
        for _ in range(4):
            torch.manual_seed(0)
            output = model(batch)
            (output.scalars.sum() + output.vectors.square().sum()).backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad(set_to_none=True)
        first, *others = gradients
        assert all(torch.equal(first[name], other[name]) for other in others for name in first)
