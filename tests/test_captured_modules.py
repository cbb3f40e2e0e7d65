"""What a capture leaves of the module, and what masks that choose nothing do in its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from strategies import registry
from strategies.base import Candidate
from tests.exporting import largest_error, request_for

STRATEGIES = ("htp", "fx")


class Remembers(nn.Module):
    """Keeps what it computed for its next call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3), requires_grad=False)
        self.kept: Tensor | None = None
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.weight.exp()
        if "twice" not in self.cache:
            self.cache["twice"] = self.weight * 2
        self.last = x @ self.kept @ self.cache["twice"]
        return self.last


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_module_keeps_nothing_of_a_capture(strategy: str, tmp_path: Path) -> None:
    model, inputs = Remembers(), {"x": torch.randn(2, 3)}
    request = request_for(
        model, inputs, Candidate(strategy=strategy), tmp_path, axes={"x": {0: "rows"}}
    )
    model.kept, before = None, model.last
    model.cache.clear()
    path = registry.resolve(strategy)(request).path
    assert model.kept is None
    assert not model.cache
    assert model.last is before
    assert largest_error(path, model, {"x": torch.randn(5, 3)}) < 1e-5


class Chooses(nn.Module):
    """Writes to the rows of each group what the group's layer makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)).requires_grad_(False)

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        result = torch.zeros_like(x)
        for index, layer in enumerate(self.layers):
            result[group == index] = layer(x[group == index])
        return result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_group_may_be_empty(strategy: str, tmp_path: Path) -> None:
    model = Chooses()
    inputs = {"x": torch.randn(5, 4), "group": torch.tensor([0, 1, 1, 0, 1])}
    candidate = Candidate(strategy=strategy, dynamic=False)
    path = registry.resolve(strategy)(request_for(model, inputs, candidate, tmp_path)).path
    for group in ([0] * 5, [1] * 5, [1, 0, 1, 0, 0]):
        assert largest_error(path, model, {**inputs, "group": torch.tensor(group)}) < 1e-5


class Squeezes(nn.Module):
    """Drops axes of length 1, and some that are longer, which stay."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        column = x[:, :1]
        return x.squeeze(1), column.squeeze(1), column.squeeze(-1), column.squeeze((0, 1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_axes_of_length_one_are_dropped(strategy: str, tmp_path: Path) -> None:
    request = request_for(
        Squeezes(),
        {"x": torch.randn(2, 3)},
        Candidate(strategy=strategy),
        tmp_path,
        axes={"x": {0: "rows"}},
    )
    path = registry.resolve(strategy)(request).path
    assert largest_error(path, Squeezes(), {"x": torch.randn(5, 3)}) == 0
