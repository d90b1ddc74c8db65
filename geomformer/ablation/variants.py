"""From a plan to one checked configuration per variant, before anything runs."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from geomformer.ablation.plan import Plan
from geomformer.config.load import apply_overrides, change, choose_architecture, read_source, validate
from geomformer.config.model import CONFIGS, architecture_of
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, nearest

MODEL, ARCHITECTURE = "model", "architecture"


def configurations(
    plan: Plan,
    *,
    quick: bool = False,
    data: str | None = None,
    budget: float | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, RunConfig]:
    """Configurations of base and variants by name, in the order of the table. `train.seed` is set for each run.

    Args:
        plan: the plan.
        quick: with its quick changes.
        data: dataset in place of the plan's.
        budget: training length as a share of the base's, in place of the plan's.
        overrides: `section.key=value` for all of them, after everything else.

    Raises:
        ConfigError: one of them is no configuration, is for another task or data, or equals the base; it is named.
    """
    check_overrides(overrides)
    if budget is not None and not 0 < budget < math.inf:
        raise ConfigError(f"Expected a budget above 0, found {budget}.", "1 trains as long as the plan's base.")
    named = [*overrides, *([] if data is None else [f"data.dataset={json.dumps(data)}"])]
    with naming(f"plan {plan.name}, base"):
        base = base_values(plan, budget)
    found = {}
    for name in plan.rows:
        where = f"plan {plan.name}, variant {name}"
        with naming(where):
            values = variant_values(plan, name, base, quick)
            apply_overrides(values, named)
            found[name] = validate(values, where)
    check_quick(plan, found)
    check_comparable(plan, found)
    return found


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Complaints that are raised inside say where."""
    try:
        yield
    except ConfigError as error:
        message = error.message if where in error.message else f"{where}: {error.message}"
        raise ConfigError(message, error.hint) from error


def base_values(plan: Plan, budget: float | None = None) -> dict[str, Any]:
    """The base as plain values, on the plan's data and with its share of the training length."""
    values: dict[str, Any] = {}
    if isinstance(plan.base, str):
        values = read_source(plan.base)
    else:
        changes = dict(plan.base)
        extended = changes.pop("extends", None)
        values = read_source(str(extended)) if extended else {}
        change(values, changes)
    change(values, {"data": {"dataset": plan.data}})
    train = validate(copy.deepcopy(values), f"plan {plan.name}, base").train
    share = plan.budget if budget is None else budget
    if train.max_steps is not None:
        length: dict[str, Any] = {"max_steps": max(1, round(share * train.max_steps))}
    else:
        length = {"epochs": share * train.epochs}
    change(values, {"train": length})
    return values


def variant_values(plan: Plan, name: str, base: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """A variant as plain values: architecture, quick changes that it has keys for, its own, its own quick ones."""
    values = copy.deepcopy(dict(base))
    changes = plan.variants.get(name, {})
    if ARCHITECTURE in changes.get(MODEL, {}):
        choose_architecture(values, str(changes[MODEL][ARCHITECTURE]))
    if quick:
        known = CONFIGS[str(architecture_of(values.get(MODEL, {})))].model_fields
        common = dict(plan.quick.changes)
        if MODEL in common:
            common[MODEL] = {key: value for key, value in common[MODEL].items() if key in known}
        change(values, common)
    change(values, changes)
    if quick:
        change(values, plan.quick.variants.get(name, {}))
    return values


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses what is not one value for all runs."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key == "train.seed":
            raise ConfigError(f"--set {override}: every run has a seed of its own.", "Say how many with --seeds.")


def check_quick(plan: Plan, found: Mapping[str, RunConfig]) -> None:
    """Refuses quick changes of the model that no architecture of the plan knows: they would be left out silently."""
    known = {key for config in found.values() for key in type(config.model).model_fields}
    for key in plan.quick.changes.get(MODEL, {}):
        if key not in known:
            raise ConfigError(f"plan {plan.name}: unknown key 'quick.changes.model.{key}'.{nearest(key, known)}")


def check_comparable(plan: Plan, found: Mapping[str, RunConfig]) -> None:
    """Refuses variants that cannot stand in one table with the base, or would repeat it."""
    base = found[plan.base_name]
    for name, config in found.items():
        if config.task.name != plan.task:
            raise ConfigError(
                f"plan {plan.name}, variant {name}: expected task {plan.task}, found {config.task.name}.",
                "All variants of a plan have its task.",
            )
        if config.data.dataset != base.data.dataset or config.data.split_scheme != base.data.split_scheme:
            raise ConfigError(
                f"plan {plan.name}, variant {name}: expected the data of the base, {base.data.dataset}, found "
                f"{config.data.dataset}.",
                "Compare on one dataset; another one for all is --data NAME.",
            )
        if name != plan.base_name and config == base:
            raise ConfigError(
                f"plan {plan.name}, variant {name}: it changes nothing, its configuration is that of the base.",
                "Check its keys, and what quick changes and --set do to them.",
            )
