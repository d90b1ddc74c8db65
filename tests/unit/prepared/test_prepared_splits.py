"""The scaffold split, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geomformer.errors import ConfigError
from geomformer.prepared.splits import scaffold_split, split_ends

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


def test_largest_sets_go_to_train_while_they_fit() -> None:
    # Ends at 7 and 9 of 12 rows: a (4) and b (3) fill train; d, whose first row comes after c's, fills valid.
    assert scaffold_split(list("aaaabbbccdde"), SHARES).tolist() == [0] * 7 + [2, 2] + [1, 1] + [2]


def test_smaller_set_fills_what_a_larger_one_left_open() -> None:
    # Ends at 6 and 8 of 10: a (5) leaves a place in train, b (3) fills valid up to 8, e takes the place, d is left.
    assert scaffold_split(list("aaaaabbbde"), SHARES).tolist() == [0] * 5 + [1] * 3 + [2, 0]


def test_numbers_stand_for_scaffolds_and_their_values_do_not_matter() -> None:
    names = list("cabbacaadd")
    numbers = np.array([{"a": 7, "b": 0, "c": 2**63, "d": 3}[name] for name in names], np.uint64)
    assert scaffold_split(numbers, SHARES).tolist() == scaffold_split(names, SHARES).tolist()
    assert scaffold_split(numbers, SHARES).dtype == np.uint8


def test_ends_are_floored_running_sums() -> None:
    assert split_ends(3_899_647, SHARES) == [2_339_788, 3_119_717]


def test_fractions_must_add_up() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        scaffold_split(["a"], {"train": 0.5, "test": 0.2})
