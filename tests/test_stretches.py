"""Lists of numbers as long as a size says: they follow the size in every capture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strategies import registry, stretches
from strategies.base import Candidate
from tests.exporting import largest_error, request_for


class Pools(nn.Module):
    """Halves a list of positions as Funnel does, and counts backwards as CPM-Ant does."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        places = list(range(x.shape[1]))
        pooled = [-1] + places[1:-1][::2]  # noqa: RUF005 - as models write it
        inner = pooled[1:]
        span = pooled[0] - places[-1] + 2 * len(pooled)
        return {
            "backwards": x + torch.tensor(places[::-1], dtype=x.dtype),
            "pooled": torch.tensor(pooled),
            "inner": torch.tensor(inner) * inner[0] - inner[-1],
            "span": x.new_ones(abs(span) + 1),
            "kinds": x * sum(isinstance(item, list) for item in (places, [], ())),
        }


@pytest.mark.parametrize("strategy", registry.names())
def test_lists_are_as_long_as_the_axis(strategy: str, tmp_path: Path) -> None:
    model = Pools().eval()
    axes = {"x": {0: "rows", 1: "width"}}
    candidate = Candidate(strategy=strategy)
    request = request_for(model, {"x": torch.randn(3, 7)}, candidate, tmp_path, axes=axes)
    path = registry.resolve(strategy)(request).path
    for rows, width in ((3, 7), (2, 8), (4, 29)):
        assert largest_error(path, model, {"x": torch.randn(rows, width)}) == 0


@pytest.mark.parametrize("count", [6, 7])
@pytest.mark.parametrize(
    "taken",
    [
        *(slice(*ends) for ends in ((1,), (1, None), (1, -1), (2, -1), (None, -2), (-2, None))),
        *(slice(*ends) for ends in ((None, None, 2), (1, -1, 2), (None, None, -1), (1, 4), (0, 0))),
        *(0, 3, -1, -2),
    ],
)
@pytest.mark.parametrize("head", [[], [9, 8]])
def test_parts_are_those_of_a_list(count: int, taken: Any, head: list[int]) -> None:
    plain = head + list(range(3, 3 + 2 * count, 2))
    found = (head + stretches.Stretch((), 3, count, 2))[taken]
    assert (list(found) if isinstance(taken, slice) else found) == plain[taken]
