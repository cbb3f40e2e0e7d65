"""Tensors that are cut into pieces of sizes that only values tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from strategies import pieces, registry
from strategies.base import Candidate
from tests.exporting import largest_error, request_for


class Joins(nn.Module):
    """As vision models do it: one piece per image, joined where the text wants them."""

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        features = torch.tanh(x)
        return torch.cat(torch.split(features, grid.prod(-1).tolist()), dim=0) * 2


def images(*sizes: tuple[int, int]) -> dict[str, Tensor]:
    grid = torch.tensor(sizes)
    return {"x": torch.randn(int(grid.prod(-1).sum()), 4), "grid": grid}


def test_pieces_that_are_joined_again_may_be_of_any_number(tmp_path: Path) -> None:
    axes = {"x": {0: "patches"}, "grid": {0: "images"}}
    candidate = Candidate(strategy="htp")
    request = request_for(Joins(), images((2, 3), (1, 4)), candidate, tmp_path, axes=axes)
    path = registry.resolve("htp")(request).path
    for sizes in (((1, 1),), ((2, 2), (3, 1), (4, 2))):
        assert largest_error(path, Joins(), images(*sizes)) < 1e-6


class Flattens(nn.Module):
    """Gives each piece another shape before they are joined."""

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        features = torch.tanh(x)
        flat = [f.reshape(-1, f.shape[-1]) for f in torch.split(features, counts.tolist())]
        return torch.cat(flat, dim=0) * 2


@pytest.mark.parametrize("strategy", ["usage_based", "htp"])
def test_pieces_that_are_flattened_may_be_of_any_number(strategy: str, tmp_path: Path) -> None:
    def case(*counts: int) -> dict[str, Tensor]:
        return {"x": torch.randn(sum(counts), 3, 4), "counts": torch.tensor(counts)}

    axes = {"x": {0: "images"}, "counts": {0: "batch_size"}}
    candidate = Candidate(strategy=strategy)
    request = request_for(Flattens(), case(2, 3), candidate, tmp_path, axes=axes)
    path = registry.resolve(strategy)(request).path
    for counts in ((1,), (2, 3, 4)):
        assert largest_error(path, Flattens(), case(*counts)) < 1e-6


def test_outside_of_a_symbolic_capture_nothing_changes() -> None:
    x = torch.arange(6).reshape(3, 2)
    with pieces.kept_together():
        sizes = torch.tensor([1, 2]).tolist()
        assert type(sizes) is list
        first, second = torch.split(x, sizes)
        assert torch.equal(torch.cat([second, first], dim=-2), x[[1, 2, 0]])
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        torch.split(x, [1, 1], dim=0)
