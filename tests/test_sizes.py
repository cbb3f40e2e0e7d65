"""Sizes that forward makes plain numbers of: they stay open, and nothing else changes."""

from __future__ import annotations

import importlib.util
import math
import operator
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.utils.generic import torch_int

from strategies import sizes
from strategies.base import Candidate
from strategies.errors import CaptureError
from strategies.fx import FxStrategy
from strategies.htp import HtpStrategy
from tests.exporting import largest_error, request_for

STRATEGIES = pytest.mark.parametrize("strategy", [HtpStrategy, FxStrategy])
AXES = {"x": {0: "rows", 1: "width"}}


class Measures(nn.Module):
    """Counts with `len`, of tensors and others, and halves with transformers' `torch_int`."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        parts = [x, -x]
        ramp = torch.arange(len(x), dtype=x.dtype)[:, None]
        half = torch.stack(parts)[..., : torch_int(x.shape[1] / 2)]  # type: ignore[no-untyped-call]  # transformers has not annotated it
        doubled = torch.cat([x] * len(parts)).reshape(len(parts), len(x), -1)
        return {"ramp": x + ramp, "half": half, "doubled": doubled}


@STRATEGIES
def test_lengths_and_whole_numbers_follow_the_axes(
    strategy: type[HtpStrategy | FxStrategy], tmp_path: Path
) -> None:
    model = Measures().eval()
    candidate = Candidate(strategy=strategy.name)
    request = request_for(model, {"x": torch.randn(3, 7)}, candidate, tmp_path, axes=AXES)
    path = strategy()(request).path
    for rows, width in ((3, 7), (5, 10)):
        assert largest_error(path, model, {"x": torch.randn(rows, width)}) == 0


class Limits(nn.Module):
    """Keeps the highest scores, as many as there are at most, and pads to a least width."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kept = x.topk(min(8, x.shape[1]), dim=1).values
        padded = nn.functional.pad(x, (0, max(0, 8 - x.shape[1])))
        widest = x.new_ones(max([len(x), *x.shape]))
        return {"kept": kept, "padded": padded, "widest": widest, "first": x[:, : min(2, 3)]}


@STRATEGIES
@pytest.mark.parametrize("example", [(3, 7), (3, 9)])
def test_the_lesser_and_the_greater_are_not_chosen_for_good(
    strategy: type[HtpStrategy | FxStrategy], example: tuple[int, int], tmp_path: Path
) -> None:
    model = Limits().eval()
    candidate = Candidate(strategy=strategy.name)
    request = request_for(model, {"x": torch.randn(example)}, candidate, tmp_path, axes=AXES)
    path = strategy()(request).path
    for rows, width in ((3, 7), (3, 9), (15, 12)):
        assert largest_error(path, model, {"x": torch.randn(rows, width)}) == 0


class Chunks(nn.Module):
    """Weighs chunks of eight by one another; the example has one of them."""

    def forward(self, x: Tensor) -> Tensor:
        chunks = nn.functional.pad(x, (0, -x.shape[1] % 8)).reshape(len(x), -1, 8)
        weights = torch.einsum("rcw,rdw->rcd", chunks, chunks).softmax(-1)
        mixed = torch.einsum("rcd,rdw->rcw", weights, chunks)
        return mixed.reshape(len(x), -1)[:, : x.shape[1]]


@STRATEGIES
def test_a_size_of_one_on_the_example_may_be_another(
    strategy: type[HtpStrategy | FxStrategy], tmp_path: Path
) -> None:
    model = Chunks().eval()
    candidate = Candidate(strategy=strategy.name)
    request = request_for(model, {"x": torch.randn(3, 7)}, candidate, tmp_path, axes=AXES)
    path = strategy()(request).path
    for rows, width in ((3, 7), (5, 8), (2, 30)):
        assert largest_error(path, model, {"x": torch.randn(rows, width)}) < 1e-6


class Halves(nn.Module):
    """Cuts, resizes and scales by numbers that it makes of its sizes."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape
        smaller = int(math.ceil(height / 2) * 1.0), int(width * 0.5)
        assert isinstance(3, int)
        return {
            "cut": x[: smaller[0], : smaller[1]],
            "resized": nn.functional.interpolate(x[None, None], smaller)[0, 0],
            "scaled": x / float(width),
        }


@STRATEGIES
def test_numbers_made_of_sizes_stay_open(
    strategy: type[HtpStrategy | FxStrategy], tmp_path: Path
) -> None:
    model = Halves().eval()
    candidate = Candidate(strategy=strategy.name)
    request = request_for(model, {"x": torch.randn(6, 8)}, candidate, tmp_path, axes=AXES)
    path = strategy()(request).path
    for rows, width in ((6, 8), (7, 11), (12, 4)):
        assert largest_error(path, model, {"x": torch.randn(rows, width)}) < 1e-6


class Reads(nn.Module):
    """Begins at a place that it reads from a tensor."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        place = int(start)
        return x[:, place : place + 2] * float(start)


def test_numbers_that_are_read_from_tensors_stay_open(tmp_path: Path) -> None:
    model = Reads().eval()
    inputs = {"x": torch.randn(3, 7), "start": torch.tensor(2)}
    candidate = Candidate(strategy="fx")
    path = FxStrategy()(request_for(model, inputs, candidate, tmp_path, axes=AXES)).path
    for place in (2, 0, 5):
        inputs = {"x": torch.randn(4, 9), "start": torch.tensor(place)}
        assert largest_error(path, model, inputs) == 0


def test_a_type_is_only_replaced_where_it_is_called(tmp_path: Path) -> None:
    source = tmp_path / "typed.py"
    source.write_text(
        "import torch\n"
        "class Typed(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        assert isinstance(len(x.shape), int)\n"
        "        return x + torch.ones(x.shape, dtype=float)\n"
    )
    spec = importlib.util.spec_from_file_location("typed_of_the_sizes_test", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        with sizes.kept_open(module.Typed()):
            assert "int" in vars(module)
            assert "float" not in vars(module)
            assert module.Typed()(torch.ones(2)).tolist() == [2, 2]
    finally:
        del sys.modules[spec.name]


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * len(torch.tensor(1.0))


def test_names_are_put_back() -> None:
    names = vars(sys.modules[__name__])
    before = dict(names)
    with sizes.kept_open(Refuses()):
        assert names["len"]([1, 2]) == 2
        assert len("three") == 5
        assert len(torch.zeros(4, 2)) == 4
        assert torch_int(2.5) == 2  # type: ignore[no-untyped-call]  # as above
        with pytest.raises(TypeError):
            Refuses()(torch.ones(2))
        assert names["torch_int"] is not before["torch_int"]
    assert names == before


class Stretches(nn.Module):
    """Fixes its second axis, after a branch on the first."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 7:
            return x
        return x * operator.index(x.shape[1])


def test_the_line_that_fixes_an_axis_is_that_of_the_axis(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(3, 7)}
    request = request_for(Stretches(), inputs, Candidate(strategy="htp"), tmp_path, axes=AXES)
    line = Stretches.forward.__code__.co_firstlineno + 3
    message = rf"axis width became fixed at 7 by test_sizes\.py:{line} in forward"
    with pytest.raises(CaptureError, match=message):
        HtpStrategy()(request)
