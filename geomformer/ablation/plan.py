"""The plan of an ablation: a YAML file with a base, the changes of every variant, and what is compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from geomformer.config.load import read_mapping
from geomformer.config.run import TASKS
from geomformer.config.section import Section
from geomformer.errors import ConfigError, nearest

PLANS = Path(__file__).parent / "plans"

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_RISING = ("ewt", "adwt", "r2")

Changes = dict[str, dict[str, Any]]
"""Values by section and key, as in a configuration file."""


class Printed(Section):
    """Numbers of a paper, shown beside those that are measured."""

    metric: str | None = Field(None, description="which of the plan's metrics; the first one if not set")
    form: Literal["value", "change"] = Field(
        "value", description="the metric itself, or its change against the base in %, positive where it rises"
    )
    numbers: dict[str, dict[str, float]] = Field({}, description="by dataset, then by variant")

    def of(self, dataset: str) -> dict[str, float]:
        """The numbers by variant for a dataset, given by name or folder; {} where none are printed."""
        parts = Path(dataset).parts
        found = [names for name, names in self.numbers.items() if parts[-len(Path(name).parts) :] == Path(name).parts]
        return found[0] if found else {}


class Quick(Section):
    """What makes a plan small enough for minutes on a laptop."""

    seeds: int = Field(2, ge=1, description="runs of every variant")
    limit: int | None = Field(None, ge=1, description="rows evaluated of each split; all if not set")
    changes: Changes = Field({}, description="of every run, before the variant's own; sizes go to any architecture")
    variants: dict[str, Changes] = Field({}, description="further changes by variant, after its own")


class Plan(Section):
    """Which runs are compared. See `load_plan`.

    Every variant is the base with its changes; where it chooses another `model.architecture`, inputs and outputs of the
    base's network stay and sizes are that architecture's.
    """

    name: str = Field(pattern=_NAME, description="of the plan; that of its file if not set")
    title: str = Field(min_length=1, description="heading of the table")
    source: str = Field("", description="where the plan comes from, such as a table of a paper")
    cost: str = Field("", description="what the full plan takes, for whoever considers running it")
    notes: str = Field("", description="what a reader of the table should know")
    task: Literal["gap", "is2re", "is2rs", "nbody", "md17"] = Field(description="task of all variants")
    base: str | dict[str, Any] = Field(description="preset, file, or a mapping like one, which may say `extends`")
    base_name: str = Field("base", pattern=_NAME, description="name of the first row, which is the base itself")
    data: str = Field(description="prepared dataset, name or folder")
    variants: dict[str, Changes] = Field(min_length=1, description="changes by variant, in the order of the table")
    seeds: int = Field(3, ge=1, description="runs of every variant, with train.seed 1, 2, ...")
    budget: float = Field(1.0, gt=0, allow_inf_nan=False, description="training length as a share of the base's")
    limit: int | None = Field(None, ge=1, description="rows evaluated of each split; all if not set")
    threads: int = Field(1, ge=1, description="CPU threads of a run; another number rounds sums otherwise")
    metrics: tuple[str, ...] = Field(
        min_length=1, description="SPLIT/KEY with keys of `evaluate --json`; the first one is drawn first"
    )
    paper: Printed = Printed()
    quick: Quick = Quick()

    @field_validator("variants")
    @classmethod
    def _named(cls, variants: dict[str, Changes]) -> dict[str, Changes]:
        for name in variants:
            if not re.match(_NAME, name):
                raise ValueError(f"expected names of letters, digits, '.', '_' and '-', found {name!r}")
        return variants

    @field_validator("metrics")
    @classmethod
    def _with_split(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            split, slash, key = metric.partition("/")
            if not (split and slash and key) or "/" in key:
                raise ValueError(f"expected SPLIT/KEY such as test/energy_mae_ev, found {metric!r}")
        if len(set(metrics)) < len(metrics):
            raise ValueError("a metric stands there twice")
        return metrics

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.base_name in self.variants:
            raise ValueError(f"a variant has the name of the base, {self.base_name!r}: choose another base_name")
        for place, names in self._variants_named():
            for name in names:
                if name not in self.rows:
                    raise ValueError(f"{place}: there is no variant {name!r}.{nearest(name, self.rows)}")
        for place, changes in self._changes_named():
            if "seed" in changes.get("train", {}):
                raise ValueError(f"{place}.train.seed: every run has a seed of its own; seeds says how many")
        if self.paper.metric is not None and self.paper.metric not in self.metrics:
            found = nearest(self.paper.metric, self.metrics)
            raise ValueError(f"paper.metric: expected one of the plan's metrics, found {self.paper.metric!r}.{found}")
        for dataset, numbers in self.paper.numbers.items():
            if self.paper.form == "value" and self.base_name not in numbers:
                raise ValueError(f"paper.numbers: {dataset} has no number of the base, {self.base_name!r}")
        return self

    def _variants_named(self) -> Iterator[tuple[str, Iterable[str]]]:
        """Places that name variants, with the names."""
        yield "quick.variants", self.quick.variants
        for dataset, numbers in self.paper.numbers.items():
            yield f"paper.numbers.{dataset}", numbers

    def _changes_named(self) -> Iterator[tuple[str, Changes]]:
        """Places that change configurations, with the changes."""
        yield "quick.changes", self.quick.changes
        for place, variants in (("variants", self.variants), ("quick.variants", self.quick.variants)):
            for name, changes in variants.items():
                yield f"{place}.{name}", changes

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of base and variants, in the order of the table."""
        return (self.base_name, *self.variants)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the metrics name."""
        return tuple(dict.fromkeys(metric.partition("/")[0] for metric in self.metrics))

    def select(self, names: Iterable[str]) -> tuple[str, ...]:
        """The rows that are asked for, all if none is, the base always among them.

        Raises:
            ConfigError: there is no such variant.
        """
        wanted = set(names) or set(self.rows)
        for name in wanted:
            if name not in self.rows:
                raise ConfigError(
                    f"Plan {self.name} has no variant '{name}'.{nearest(name, self.rows)}",
                    f"Variants: {', '.join(self.rows)}.",
                )
        return tuple(name for name in self.rows if name in wanted or name == self.base_name)


def rises(metric: str) -> bool:
    """Whether a metric is better when it is higher."""
    return bool(set(_RISING) & set(metric.partition("/")[2].split("_")))


def plan_names() -> list[str]:
    """Names of the plans that come with geomformer."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def load_plan(source: str | Path) -> Plan:
    """Reads a plan; its variants are checked by `variants.configurations`.

    Args:
        source: name of a plan that comes with geomformer, or path of a YAML file.

    Raises:
        ConfigError: there is none, or it is no plan; the nearest known name is suggested.
    """
    shipped = str(source) in plan_names()
    path = PLANS / f"{source}.yaml" if shipped else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"'{source}' is neither a plan that comes with geomformer nor a file.{nearest(str(source), plan_names())}",
            f"Plans: {', '.join(plan_names())}.",
        )
    values = read_mapping(path, "a plan (title, task, base, variants)")
    try:
        return Plan.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        complaints = "; ".join(dict.fromkeys(_explain(item) for item in error.errors()))
        hint = f"`geomformer ablate --list` shows plans; they lie in {PLANS}."
        raise ConfigError(f"plan {source}: {complaints}", hint) from error


def _explain(error: Any) -> str:
    """One pydantic complaint as a sentence."""
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"paper": Printed, "quick": Quick}
        section = Plan if len(path) == 1 else sections.get(path[0], Plan)
        return f"unknown key '{where}'.{nearest(path[-1], section.model_fields)}"
    if path[-1:] == ["[key]"]:
        return f"{'.'.join(path[:-2])}: expected names, found {error['input']!r}, which needs quotes to be one"
    if error["type"] == "missing":
        return f"{where} is missing"
    if path[:1] == ["task"]:
        return (
            f"task: expected one of {', '.join(TASKS)}, found {error['input']!r}.{nearest(str(error['input']), TASKS)}"
        )
    if path[:1] == ["base"]:
        return "base: expected the name of a preset or a mapping of sections"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" or isinstance(error["input"], dict) else f", found {error['input']!r}"
    return f"{where}: {message}{found}" if where else message
