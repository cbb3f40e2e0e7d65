"""Loops over the experts that got a token, captured where not every expert got one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from strategies import registry
from strategies.base import VOID, Candidate
from strategies.loop_statements import selects_apart
from tests.exporting import largest_error, request_for

WIDTH, EXPERTS = 8, 4


class Named(nn.Module):
    """Experts that are looked up by name; of the tokens, those past a capacity are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleDict(
            {f"expert_{number}": nn.Linear(WIDTH, WIDTH) for number in range(EXPERTS)}
        )
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        capacity = math.ceil(0.3 * x.shape[0])
        chosen = functional.one_hot(self.router(x).argmax(-1), EXPERTS)
        chosen *= chosen.cumsum(0) <= capacity
        mask = chosen.permute(1, 0)
        out = torch.zeros_like(x)
        for number in torch.greater(mask.sum(-1), 0).nonzero():
            _, rows = torch.where(mask[number])
            said = self.experts[f"expert_{number[0]}"](x[None, rows].reshape(-1, WIDTH))
            out.index_add_(0, rows, said)
        self.last = out
        return out


class Numbered(nn.Module):
    """Experts' weights by number; the last has none and gives tokens as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.weight = nn.Parameter(torch.randn(EXPERTS - 1, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        mask = functional.one_hot(chosen, EXPERTS).permute(2, 1, 0)
        out = torch.zeros_like(x)
        for found in torch.greater(mask.sum((-1, -2)), 0).nonzero():
            number = int(found.item())
            slots, rows = torch.where(mask[number])
            if rows.numel() == 0:
                continue
            if number == EXPERTS - 1:
                said = x[rows]
            else:
                said = functional.linear(x[rows], self.weight[number])
            said = said * weights[rows, slots, None]
            out.index_add_(0, rows, said)
        return out


class Stacked(nn.Module):
    """Experts' weights by a number that nobody reads; a step asks which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mask = functional.one_hot(self.router(x).argmax(-1), EXPERTS).permute(1, 0)
        out, again = torch.zeros_like(x), torch.zeros_like(x)
        for number in torch.greater(mask.sum(-1), 0).nonzero():
            rows = torch.where(mask[number[0]])[0]
            out[rows] += functional.linear(x[rows], self.weight[number[0]])
        for number in mask.any(-1).nonzero():
            number = number[0]  # noqa: PLW2901 - as models write it
            if number == EXPERTS - 1:
                continue
            rows = torch.where(mask[number])[0]
            again.index_add_(0, rows, functional.linear(x[rows], self.weight[number]))
        return out - again * 0.5


CANDIDATES = [
    Candidate(strategy="usage_based", dynamic=True, weights=VOID),
    Candidate(strategy="usage_based", dynamic=True),
    Candidate(strategy="htp", dynamic=True),
    Candidate(strategy="fx", dynamic=True),
]


@pytest.mark.parametrize("kind", [Named, Numbered, Stacked])
@pytest.mark.parametrize("candidate", CANDIDATES, ids=str)
def test_experts_without_a_token_in_the_capture(
    candidate: Candidate, kind: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    # All tokens alike: most experts get none.
    inputs = {"x": torch.randn(1, WIDTH).repeat(5, 1)}
    request = request_for(model, inputs, candidate, tmp_path, axes={"x": {0: "tokens"}})
    kept = getattr(model, "last", None)
    path = registry.resolve(candidate.strategy)(request).path
    assert getattr(model, "last", None) is kept
    for count in (5, 1, 12, 40):
        assert largest_error(path, model, {"x": torch.randn(count, WIDTH)}) < 1e-5


class Counting(nn.Module):
    """Steps that count, and so differ from none at all."""

    def forward(self, x: Tensor) -> Tensor:
        count = torch.zeros(1)
        for number in (x.sum(0) > 0).nonzero():
            rows = torch.where(x[:, number[0]] > 0)[0]
            count = count + 1 + rows.shape[0] * 0
        return x * count


def test_steps_that_leave_something_behind_are_not_added() -> None:
    code = Counting.forward.__code__
    assert not selects_apart(code, code.co_firstlineno + 2)
    code = Numbered.forward.__code__
    assert selects_apart(code, code.co_firstlineno + 4)
