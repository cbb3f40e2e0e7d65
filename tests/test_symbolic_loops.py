"""Loops over sizes, which htp and fx keep as ONNX Loops too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from strategies.base import Candidate
from strategies.errors import FrozenAxisError
from strategies.registry import resolve
from tests.exporting import largest_error, request_for
from tests.test_loops import (
    WIDTH,
    ByChunks,
    CallingModules,
    Choosing,
    Counting,
    Filling,
    Gathering,
    Leaking,
    Nested,
    Propagating,
    Remembering,
    Weighing,
    operators,
)

STRATEGIES = pytest.mark.parametrize("strategy", ["htp", "fx"])


class Inserting(nn.Module):
    """Has the number in keys of every form, and sizes that are numbers of steps."""

    def forward(self, x: Tensor) -> Tensor:
        result = torch.zeros(x.shape[0], x.shape[1] * 2, 1, WIDTH)
        for i in range(0, x.shape[1] * 2, 2):
            first = x[..., i // 2, None, :]
            result[:, i : i + 2, 0, 4:] = torch.cat([first, -first], 1)[..., 4:]
            result[..., i, 0, :4] = 1.5
        return result


def export(strategy: str, model: nn.Module, tmp_path: Path, length: int) -> Path:
    axes = {"x": {0: "batch_size", 1: "length"}}
    candidate = Candidate(strategy=strategy, dynamic=True)
    inputs = {"x": torch.randn(2, length, WIDTH)}
    return resolve(strategy)(request_for(model, inputs, candidate, tmp_path, axes=axes)).path


@STRATEGIES
@pytest.mark.parametrize(
    "kind",
    [ByChunks, CallingModules, Gathering, Inserting, Nested, Propagating, Remembering],
)
def test_other_numbers_of_steps(strategy: str, kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    path = export(strategy, model, tmp_path, 3)
    assert operators(path)["Loop"] == (2 if kind is Nested else 1)
    for shape in ((2, 1), (3, 2), (1, 5), (2, 11)):
        assert largest_error(path, model, {"x": torch.randn(*shape, WIDTH)}) < 1e-5


@STRATEGIES
@pytest.mark.parametrize("kind", [Counting, Choosing, Weighing, Leaking, Filling])
def test_what_cannot_be_kept_fixes_the_axis(
    strategy: str, kind: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    with pytest.raises(FrozenAxisError, match=r"1 \(length\)|axis length"):
        export(strategy, kind().eval(), tmp_path, 3)
