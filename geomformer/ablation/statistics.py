"""Means over seeds, and whether two of them differ by more than the seeds alone explain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.05
RULE = "Welch's t-test of the two means, two-sided, p < 0.05"


@dataclass(frozen=True)
class Sample:
    """One metric of one variant over its seeds.

    Attributes:
        values: by seed, in their order.
    """

    values: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single run."""
        return float(np.std(self.values, ddof=1)) if self.count > 1 else None

    @property
    def squared_error(self) -> float | None:
        """Variance of the mean."""
        return None if self.deviation is None else self.deviation**2 / self.count


@dataclass(frozen=True)
class Comparison:
    """A variant against the base.

    Attributes:
        change: of the mean, in % of the base's.
        error: standard error of `change`, both means counted; None where one is of a single run.
        p: of Welch's test; likewise.
    """

    change: float
    error: float | None
    p: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the means differ by more than the seeds explain, by `RULE`."""
        return None if self.p is None else self.p < SIGNIFICANCE


def compare(sample: Sample, base: Sample) -> Comparison | None:
    """Compares two means of runs that are taken to be independent; None where the base's mean is zero.

    The error of the ratio v/b of two means with errors e_v, e_b is to first order
    |v/b| sqrt((e_v/v)^2 + (e_b/b)^2) = sqrt(e_v^2 + (v/b)^2 e_b^2) / |b|.
    """
    if not base.mean:
        return None
    ratio = sample.mean / base.mean
    change = 100.0 * (sample.mean - base.mean) / abs(base.mean)
    own, other = sample.squared_error, base.squared_error
    if own is None or other is None:
        return Comparison(change, None, None)
    error = 100.0 * math.sqrt(own + ratio**2 * other) / abs(base.mean)
    return Comparison(change, error, welch(sample, base))


def welch(first: Sample, second: Sample) -> float | None:
    """Two-sided p-value of Welch's t-test, which takes neither equal spreads nor equal numbers of runs for granted;
    None where one has a single run.

    t = (m_1 - m_2) / sqrt(e_1^2 + e_2^2), with (e_1^2 + e_2^2)^2 / (e_1^4/(n_1 - 1) + e_2^4/(n_2 - 1)) degrees of
    freedom, e^2 the variances of the means.
    """
    from scipy.special import stdtr

    own, other = first.squared_error, second.squared_error
    if own is None or other is None:
        return None
    difference = first.mean - second.mean
    if own + other == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    freedom = (own + other) ** 2 / (own**2 / (first.count - 1) + other**2 / (second.count - 1))
    return float(2.0 * stdtr(freedom, -abs(difference) / math.sqrt(own + other)))
