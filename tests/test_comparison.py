"""When two arrays count as the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from selector.comparison import compare, settle_ties, tolerance_for


def test_fill_values_do_not_hide_errors() -> None:
    expected = np.array([0.5, -1.0, np.finfo(np.float32).min, -1e4], dtype=np.float32)
    actual = expected + np.array([0.1, 0, 0, 0], dtype=np.float32)
    for count in (3, 4):
        assert not compare(actual[:count], expected[:count], 1e-3).right
    rounded = expected * np.float32(1 - 1e-5)
    assert compare(rounded, expected, 1e-3).right


def test_error_is_relative_to_the_outputs_magnitude() -> None:
    expected = np.array([100.0, 0.0], dtype=np.float32)
    found = compare(expected + np.float32(0.05), expected, 1e-3)
    assert found.right
    assert found.max_abs_error == pytest.approx(0.05, rel=1e-3)
    assert found.max_rel_error == pytest.approx(5e-4, rel=1e-3)
    assert not compare(expected + np.float32(0.2), expected, 1e-3).right


def test_unsigned_differences_do_not_wrap() -> None:
    found = compare(np.array([0], dtype=np.uint8), np.array([255], dtype=np.uint8), 0.0)
    assert (found.right, found.max_abs_error) == (False, 255.0)


def test_large_integers_are_told_apart() -> None:
    expected = np.array([2**62])
    assert not compare(expected + 1, expected, 0.0).right


def test_empty_outputs_are_equal() -> None:
    assert compare(np.zeros((0, 4)), np.zeros((0, 4)), 1e-3).right


def test_tolerance_is_that_of_the_coarser_dtype() -> None:
    assert tolerance_for("int64", "float32", 1.0) == 0.0
    assert tolerance_for("bool", "float16") == 0.0
    assert tolerance_for("float32", "float32") == 1e-4
    assert tolerance_for("float32", "float16") == 1e-2
    assert tolerance_for("float16", "float32") == 1e-2


def test_tolerance_grows_with_the_models_own_noise_up_to_a_ceiling() -> None:
    assert tolerance_for("float32", "float32", 1e-7) == 1e-4
    assert tolerance_for("float32", "float32", 4e-6) == pytest.approx(4e-4)
    assert tolerance_for("float32", "float32", float("inf")) == 1e-3


def test_rows_of_ties_are_exchanged_in_all_outputs_together() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0]], dtype=np.float32)
    boxes = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    layers = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    expected = {"scores": scores, "boxes": boxes, "layers": layers}
    order = [0, 2, 1, 3]
    tolerances = dict.fromkeys(expected, 1e-3)
    wrong = frozenset({"boxes", "layers"})
    together = {"scores": scores, "boxes": boxes[:, order], "layers": layers[:, :, order]}
    settled = settle_ties(together, expected, tolerances, wrong)
    assert settled.keys() == wrong
    for name, array in settled.items():
        np.testing.assert_array_equal(array, expected[name])
    # The boxes of one row beside the layers of another.
    torn = together | {"layers": layers[:, :, [1, 0, 2, 3]]}
    assert settle_ties(torn, expected, tolerances, wrong) == {}


@pytest.mark.parametrize(
    "scores",
    [[1.0, 3.0, 3.0, 2.0], [2.0, 2.0, 2.0, 2.0], [3.0, 2.1, 2.0, 1.0]],
    ids=["unsorted", "all-equal", "no-tie"],
)
def test_scores_that_show_no_tie_excuse_nothing(scores: list[float]) -> None:
    expected = {"scores": np.array(scores), "places": np.array([4, 5, 6, 7])}
    actual = expected | {"places": np.array([4, 6, 5, 7])}
    tolerances = {"scores": 1e-3, "places": 0.0}
    assert settle_ties(actual, expected, tolerances, frozenset({"places"})) == {}
