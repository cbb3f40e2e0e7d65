"""Branches on sizes, which usage_based keeps by joining captures of two examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from strategies.base import REAL, VOID, Candidate
from strategies.errors import CaptureError
from strategies.usage_based import UsageBasedStrategy
from tests.exporting import largest_error, request_for

WIDTH = 4


class Summing(nn.Module):
    """Sums up rows one after the other, and halves what is long before that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, 3.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = x.shape
        total = torch.zeros(batch, WIDTH)
        hidden = self.layer(x)
        if length > 8:
            hidden = (hidden[:, 0::2][:, : length // 2] * self.scale).tanh()
        for i in range(hidden.shape[1]):
            total = total * 0.5 + hidden[:, i]
        return hidden, total, x


class Cutting(nn.Module):
    """Fills up what is short, and returns a weight as it is; of long rows it keeps the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.filling = nn.Parameter(torch.randn(8, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        missing = 8 - min(8, x.shape[1])
        if missing:
            rest = self.filling[:missing].expand(x.shape[0], -1, -1)
            return torch.cat([x, rest], 1), self.filling
        return torch.cat([x[:, :3], x[:, -5:]], 1), self.filling


class Remembering(nn.Module):
    """Notes for good that it was given something short; asks for less where more is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.short = False

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 == 1 or x.shape[0] % 2 == 1:
            x = x + 0.5 * ((x.shape[1] % 2) | (x.shape[0] % 2))
        if x.shape[1] <= 8:
            self.short = True
        result: Tensor = self.layer(x if self.short else x.flip(1).tanh())
        return result


@pytest.mark.parametrize("weights", [REAL, VOID])
@pytest.mark.parametrize("kind", [Summing, Cutting])
@pytest.mark.parametrize("lengths", [(6, 11), (11, 6)], ids=str)
def test_either_branch_is_taken(
    lengths: tuple[int, int], kind: type[nn.Module], weights: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind().eval().requires_grad_(requires_grad=False)
    first, second = ({"x": torch.randn(2, length, WIDTH)} for length in lengths)
    request = request_for(
        model,
        first,
        Candidate(strategy="usage_based", weights=weights),
        tmp_path,
        axes={"x": {0: "batch", 1: "length"}},
        beyond=second,
    )
    path = UsageBasedStrategy()(request).path
    for batch, length in ((2, 6), (1, 11), (3, 8), (2, 9), (1, 1), (5, 20)):
        assert largest_error(path, model, {"x": torch.randn(batch, length, WIDTH)}) < 1e-5


def test_only_answers_to_the_same_question_part_captures(tmp_path: Path) -> None:
    model = Remembering().eval()
    request = request_for(
        model,
        {"x": torch.randn(1, 6, WIDTH)},
        Candidate(strategy="usage_based"),
        tmp_path,
        axes={"x": {0: "batch", 1: "length"}},
        beyond={"x": torch.randn(2, 11, WIDTH)},
    )
    model.short = False
    path = UsageBasedStrategy()(request).path
    assert not model.short
    for batch, length in ((1, 6), (2, 11), (3, 8), (1, 13), (3, 20)):
        model.short = False
        assert largest_error(path, model, {"x": torch.randn(batch, length, WIDTH)}) < 1e-6


def test_what_never_branches_is_not_joined(tmp_path: Path) -> None:
    request = request_for(
        nn.Linear(WIDTH, 2).eval(),
        {"input": torch.randn(2, WIDTH)},
        Candidate(strategy="usage_based"),
        tmp_path,
        axes={"input": {0: "batch"}},
        beyond={"input": torch.randn(3, WIDTH)},
    )
    with pytest.raises(CaptureError, match="same branches"):
        UsageBasedStrategy()(request)
