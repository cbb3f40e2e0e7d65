"""Writes through views, as usage_based captures them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from strategies.base import Candidate
from strategies.usage_based import UsageBasedStrategy
from tests.exporting import largest_error, request_for
from tests.test_compositions import Calls, draw

Write = Callable[[Tensor], object]
FIRST_AND_LAST = torch.tensor([0, 2])
WRITES: dict[str, Write] = {
    "add_": lambda v: v.add_(1),
    "addcdiv_": lambda v: v.addcdiv_(v, v.abs() + 1),
    "addcmul_": lambda v: v.addcmul_(v, v),
    "copy_": lambda v: v.copy_(v * 2),
    "cumsum_": lambda v: v.cumsum_(1),
    "dropout": lambda v: functional.dropout(v, training=False, inplace=True),
    "fill_": lambda v: v.fill_(3),
    "index_add_": lambda v: v.index_add_(1, FIRST_AND_LAST, v[:, :2].clone()),
    "index_copy_": lambda v: v.index_copy_(1, FIRST_AND_LAST, v[:, :2] * 2),
    "index_fill_": lambda v: v.index_fill_(1, FIRST_AND_LAST, 3.0),
    "index_put_": lambda v: v.index_put_((FIRST_AND_LAST[:1],), torch.tensor(1.0)),
    "lerp_": lambda v: v.lerp_(v * 2, 0.3),
    "masked_fill_": lambda v: v.masked_fill_(v > 0, -5.0),
    "masked_scatter_": lambda v: v.masked_scatter_(v > 0, torch.arange(500.0)),
    "relu": lambda v: functional.relu(v, inplace=True),
    "scatter_": lambda v: v.scatter_(1, torch.zeros_like(v, dtype=torch.int64)[:, :1], 2.0),
    "tril_": lambda v: v.tril_(),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_reach_what_is_viewed(name: str, tmp_path: Path) -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        rows = y[1:]
        WRITES[name](rows)
        return y, rows

    assert_exact(forward, tmp_path)


def by_turns(x: Tensor) -> tuple[Tensor, ...]:
    """Views of views, older than writes and younger, read before and after."""
    y = x + 1
    rows, column = y[1:], y[:, 2]
    corner = rows[:, 2:]
    before = column * 10
    corner.mul_(3)
    between = column - rows.sum()
    column.fill_(0.5)
    rows.sub_(corner.sum())
    y.mul_(2)
    return y, rows, column, corner, before, between


def through_functions(x: Tensor) -> Tensor:
    """Every so many rows, as the mask of a chunk that is not full is written."""
    count = x.shape[0] // 2
    y = x * 2
    part = y[count - 1 : y.shape[0] : count]
    part.masked_fill_(torch.arange(x.shape[1]) > 2, -7.0)
    return y


def by_a_mask(x: Tensor) -> Tensor:
    """Axes are gone from within the view, as from an attention mask that is cut to two of four."""
    y = x[:, None, None].repeat(1, 1, 2, 1)
    rows = y[:, 0, 0, :]
    rows[x > 0] = -5.0
    return y


@pytest.mark.parametrize("forward", [by_turns, through_functions, by_a_mask])
def test_reads_see_every_write_before_them(
    forward: Callable[[Tensor], object], tmp_path: Path
) -> None:
    assert_exact(forward, tmp_path)


def assert_exact(forward: Callable[[Tensor], object], tmp_path: Path) -> None:
    model = Calls(forward).eval()
    request = request_for(
        model,
        {"x": draw((4, 5))},
        Candidate(strategy="usage_based"),
        tmp_path,
        axes={"x": {0: "rows"}},
    )
    path = UsageBasedStrategy()(request).path
    for size in ((4, 5), (6, 5)):
        assert largest_error(path, model, {"x": draw(size)}) < 1e-6
