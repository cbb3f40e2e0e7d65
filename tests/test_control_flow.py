"""What the source of a forward says about branches and loops on tensor values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selector.control_flow import analyze_control_flow

MARK = "# found"


def marked_line(function: Callable[..., Any]) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(index for index, line in enumerate(lines) if MARK in line)


class ValueBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # found
            return x
        return -x


class ValueTernary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if (x > 0).all() else -x  # found


class ScalarBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = x.sum().item()
        doubled = count * 2
        if doubled > 3:  # found
            x = x + 1
        return x


class ValueWhile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:  # found
            x = x / 2
        return x


class ValueRange(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        for _ in range(int(n.max())):  # found
            x = x + 1
        return x


class RaggedLoop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x.sum()
        for index in x.nonzero():  # found
            total = total + index.sum()
        return total


class InMethod(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x * 2)

    def helper(self, y: Tensor) -> Tensor:
        if bool((y > 1).any()):  # found
            return y
        return y + 1


def helper_function(y: Tensor) -> Tensor:
    return y.exp() if y.mean() > 0 else y  # found


class InFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return helper_function(x)


class SecondOfTuple(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        _, large = self.split(x)
        if large:  # found
            return x
        return x + 1

    def split(self, x: Tensor) -> tuple[int, Tensor]:
        return 3, x.sum() > 3


@pytest.mark.parametrize(
    ("owner", "kind", "where"),
    [
        (ValueBranch, "branch", ValueBranch.forward),
        (ValueTernary, "branch", ValueTernary.forward),
        (ScalarBranch, "branch", ScalarBranch.forward),
        (ValueWhile, "loop", ValueWhile.forward),
        (ValueRange, "loop", ValueRange.forward),
        (RaggedLoop, "loop", RaggedLoop.forward),
        (InMethod, "branch", InMethod.helper),
        (InFunction, "branch", helper_function),
        (SecondOfTuple, "branch", SecondOfTuple.forward),
    ],
)
def test_source_shows_what_depends_on_values(
    owner: type[nn.Module], kind: str, where: Callable[..., Any]
) -> None:
    worst = analyze_control_flow(owner()).findings[0]
    assert (worst.kind, worst.line) == (kind, marked_line(where))
    assert worst.file == __file__
    assert MARK in worst.source


class ShapesAndConfig(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels = 3
        self.layers = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.scale = nn.Buffer(torch.ones(1))

    def forward(  # noqa: C901 - one branch for each thing that must not be taken for a value
        self,
        x: Tensor,
        mask: Tensor | None = None,
        use_cache: bool = False,  # noqa: FBT002 - as in transformers
        output_attentions: bool | None = None,
        past: tuple[Tensor, ...] = (),
    ) -> Tensor:
        if mask is not None and not isinstance(mask, list):
            x = x * mask
        if x.shape[1] != self.channels:
            raise ValueError(x.shape)
        height, width = x.size()[-2:]
        if height > width or x.dim() != 4 or x.dtype == torch.float16:
            x = x + 1
        if use_cache or output_attentions or past:
            x = x + 2
        if self.scale > 0 and len(past) > 2:
            x = x - 1
        hidden: tuple[Tensor, ...] = ()
        for layer in self.layers:
            hidden = (*hidden, x)
            x = layer(x)
        for index in range(x.shape[0]):
            x = x + index
        if self.training and x.sum() > 0:
            x = x * 2
        if not torch.compiler.is_compiling() and bool(x.any()):
            x = x * 3
        if hidden:
            x = x.reshape(-1)
        return x


def test_shapes_configuration_and_none_are_not_values() -> None:
    flow = analyze_control_flow(ShapesAndConfig())
    assert flow.findings == ()
    assert flow.counts["shape_branch"] == 5
    assert flow.counts["shape_loop"] == 1
    assert flow.counts["config_branch"] == 1
    assert flow.counts["config_loop"] == 1


class OtherFindings(nn.Module):
    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise ValueError("x")
        assert ids.max() < 9
        first = float(x[0, 0])
        y = x[x > 0]
        y = y + x.flatten()[ids].sum() + first
        return torch.where(y)[0] + y.sum()


def test_reads_masks_checks_and_indexing_are_told_apart() -> None:
    counts = analyze_control_flow(OtherFindings()).counts
    assert counts == {"check": 2, "index": 1, "mask": 1, "nonzero": 1, "read": 1}


def test_a_class_without_source_is_named() -> None:
    namespace: dict[str, Any] = {"nn": nn}
    exec(  # noqa: S102 - the only way to a class without a file
        "class Hidden(nn.Module):\n    def forward(self, x):\n        return x", namespace
    )
    assert analyze_control_flow(namespace["Hidden"]()).unread == ("Hidden",)
