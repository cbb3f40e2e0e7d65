"""Captures that a branch on the example's sizes led astray, and that another example mends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selector import auto_export
from selector.errors import AllStrategiesFailedError, OtherSizesError
from selector.inputs import make_inputs
from selector.recapture import another_example
from strategies import registry
from tests.exporting import largest_error


class Trained(nn.Module):
    """Adds positions as they are where they fit, and stretches them where they do not.

    Of long rows it keeps the highest numbers only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 3, 6, generator=torch.manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        positions: Tensor = self.positions
        if x.shape[2] != positions.shape[2]:
            positions = nn.functional.interpolate(positions, size=x.shape[2], mode="nearest")
        x = x + positions
        if x.shape[2] > 8:
            best = x.topk(8, dim=2).indices
            x = x.masked_fill(torch.zeros_like(x).scatter(2, best, 1.0) == 0, -1.0)
        return x


class Separate(nn.Module):
    """Takes its items apart in a way that no capture keeps."""

    def forward(self, x: Tensor) -> Tensor:
        items = {number: x[number] * number for number in range(x.shape[0])}
        return torch.stack(tuple(items.values()))


@pytest.mark.parametrize("strategy", registry.names())
def test_a_branch_that_the_example_does_not_take_is_taken(strategy: str, tmp_path: Path) -> None:
    model = Trained().eval()
    result = auto_export(
        model,
        tmp_path / "model.onnx",
        inputs={"x": torch.randn(2, 3, 6)},
        dynamic=True,
        strategy=strategy,
    )
    assert [attempt.outcome for attempt in result.attempts] == ["succeeded"]
    for rows, width in ((2, 6), (3, 5), (1, 8), (4, 20)):
        assert largest_error(result.path, model, {"x": torch.randn(rows, 3, width)}) < 1e-6


def test_no_other_example_is_tried_where_the_number_of_items_is_frozen(tmp_path: Path) -> None:
    model = Separate().eval()
    given = {"x": torch.randn(2, 6)}
    with pytest.raises(AllStrategiesFailedError) as caught:
        auto_export(
            model, tmp_path / "model.onnx", inputs=given, dynamic=True, strategy="usage_based"
        )
    error = caught.value.attempts[-1].error
    assert isinstance(error, OtherSizesError)
    assert error.report.frozen_axes == ("batch_size",)
    inputs = make_inputs(model, None, given=given)
    assert another_example(error, inputs, None) is None
    error.report = replace(error.report, frozen_axes=("x_dim_1",))
    other = another_example(error, inputs, None)
    assert other is not None
    assert other["x"].shape != given["x"].shape


class Either(nn.Module):
    """Fills up what is short, and pools what is long; of both, neither is the other's case."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 8:
            return nn.functional.pad(x, (0, 8 - x.shape[2]))
        return nn.functional.adaptive_avg_pool1d(x, 8)


def test_where_neither_branch_is_right_at_every_size_the_file_has_both(tmp_path: Path) -> None:
    model = Either().eval()
    result = auto_export(
        model,
        tmp_path / "model.onnx",
        inputs={"x": torch.randn(2, 3, 6)},
        dynamic=True,
        strategy="usage_based",
    )
    assert [attempt.outcome for attempt in result.attempts] == ["succeeded"]
    assert "larger sizes" in [case.label for case in result.verification.cases]
    for rows, width in ((2, 6), (3, 7), (1, 8), (4, 20)):
        assert largest_error(result.path, model, {"x": torch.randn(rows, 3, width)}) < 1e-6


class Counting(nn.Module):
    """Adds a number for each step of what is long, which a capture has for one length only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 8:
            return x * 2
        return x + torch.from_numpy(np.arange(int(x.shape[2]), dtype=np.float32))


class Unrolling(nn.Module):
    """Goes over the rows of what is long one by one, which fixes their number there."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 64:
            return x * 2
        return torch.stack([row.tanh() for row in x])


@pytest.mark.parametrize("kind", [Counting, Unrolling])
def test_two_captures_that_hold_at_their_own_sizes_only_are_refused(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(AllStrategiesFailedError, match="wrong at other sizes"):
        auto_export(
            kind().eval(),
            tmp_path / "model.onnx",
            inputs={"x": torch.randn(2, 3, 6)},
            dynamic=True,
            strategy="usage_based",
        )
