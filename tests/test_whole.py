"""Iterations that stay whole, at sizes that the capture did not see."""

# mypy: allow-untyped-calls
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strategies import registry
from strategies.base import Candidate
from tests.exporting import largest_error, request_for


class Solves(nn.Module):
    """Factors of a matrix as large as its input is long, and solutions by them."""

    def forward(self, x: Tensor) -> list[Tensor]:
        matrix = x @ x.T / 8 + 3 * torch.eye(x.shape[0])
        lower = torch.linalg.cholesky(matrix)
        return [
            lower,
            torch.linalg.cholesky(matrix, upper=True),
            torch.linalg.solve_triangular(lower, x, upper=False),
            torch.linalg.solve_triangular(matrix / 9, x, upper=False, unitriangular=True),
            torch.linalg.solve_triangular(matrix, x, upper=True),
            torch.linalg.solve_triangular(lower, x.T, upper=False, left=False),
            torch.cholesky_solve(x, lower),
        ]


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        matrix = x @ x.T
        values, vectors = torch.linalg.eigh(matrix)
        return [
            values,
            (vectors * values) @ vectors.mT,
            torch.linalg.eigvalsh(matrix + torch.eye(x.shape[0]).triu(1), UPLO="L"),
            torch.linalg.svdvals(x),
        ]


class Projected(nn.Module):
    """Two layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, 2, proj_size=3, bidirectional=True, batch_first=True)
        self.plain = nn.LSTM(6, 5, bias=False, proj_size=2)

    def forward(self, x: Tensor) -> Any:
        every, (hidden, cells) = self.lstm(x)
        return every, hidden, cells, self.plain(every)[0]


class Recurrent(nn.Module):
    """What ONNX has operators for."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, 2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(12, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        every, last = self.gru(x)
        return every, last, self.lstm(every)[0]


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's own, of its speed
@pytest.mark.parametrize("strategy", registry.BUILTIN)
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (Solves, ((5, 4), (3, 4), (8, 4), (1, 4))),
        (Eigenvalues, ((5, 4), (2, 4), (6, 4), (1, 4))),
        (Projected, ((2, 5, 4), (3, 9, 4), (1, 1, 4))),
        (Recurrent, ((2, 5, 4), (3, 9, 4), (1, 1, 4))),
    ],
    ids=["solves", "eigenvalues", "projected", "recurrent"],
)
def test_gives_what_torch_gives_at_other_sizes(
    kind: type[nn.Module], sizes: tuple[tuple[int, ...], ...], strategy: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    axes = {"x": {axis: f"axis_{axis}" for axis in range(len(sizes[0]) - 1)}}
    inputs = {"x": torch.randn(sizes[0])}
    request = request_for(model, inputs, Candidate(strategy=strategy), tmp_path, axes=axes)
    path = registry.resolve(strategy)(request).path
    for size in sizes:
        assert largest_error(path, model, {"x": torch.randn(size)}) < 1e-5
