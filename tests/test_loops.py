"""Loops over sizes and rows, which usage_based keeps as ONNX Loops, or unrolls where it cannot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from strategies import hierarchy, torchscript
from strategies.base import Candidate
from strategies.usage_based import UsageBasedStrategy
from tests.exporting import largest_error, request_for

WIDTH = 8


class Remembering(nn.Module):
    """Reads and updates a state at every step; nobody reads the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        state = torch.zeros(batch, width, width)
        result = torch.zeros_like(x)
        keys = self.keys(x).tanh()
        for i in range(length):
            new = x[:, i] - (state * 0.1).sum(-1)
            result[:, i] = (keys[:, i].unsqueeze(1) @ state).squeeze(1) + new
            state = state * 0.9 + keys[:, i].unsqueeze(-1) * new.unsqueeze(1)
        return result


class CallingModules(nn.Module):
    """From the second step on, every other one; each writes a stretch, and calls a module."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, result = x[:, 0], torch.zeros_like(x).repeat(1, 2, 1)
        for number in range(1, x.shape[1], 2):
            state = self.step(x[:, number], state)
            both = torch.stack([state, -state], 1)
            result[:, number * 2 : (number + 1) * 2] = both
        return result, state


class Blocks(nn.Module):
    """Takes a length of which the last block may have less, and reads the length afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        state, results = torch.zeros(batch, 1, width), []
        for i in range((length + 3) // 4):
            start = i * 4
            end = min(start + 4, length)
            block = x[:, start:end]
            results.append(block * (end - start) + state)
            state = state * 0.5 + block.sum(1, keepdim=True)
        return torch.cat(results, 1).reshape(batch, length, width)


class Nested(nn.Module):
    """A loop in a loop, with a name that was a number before and a sum in place."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[0, 0])
        row: Any = 2.5
        for i in range(x.shape[0]):
            row = x[i]
            for j in range(x.shape[1]):
                total = total * 0.5 + row[j]
            total += row.sum(0)
        return total


class ByChunks(nn.Module):
    """The gated delta rule of transformers, whose steps are chunks."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], 2, -1)
        result: Tensor = torch_chunk_gated_delta_rule(
            heads,
            heads.roll(1, -1),
            heads.flip(-1),
            g=-heads[..., 0].abs() * 0.1,
            beta=heads[..., 0].sigmoid(),
            chunk_size=4,
            use_qk_l2norm_in_kernel=True,
        )[0]
        return result


# The modules in which loops are looked for are those of the model's classes.
ByChunks.__module__ = torch_chunk_gated_delta_rule.__module__


def export(model: nn.Module, tmp_path: Path, length: int, *, dynamic: bool = True) -> Path:
    torch.manual_seed(0)
    axes = {"x": {0: "batch_size", 1: "length"}}
    candidate = Candidate(strategy="usage_based", dynamic=dynamic)
    inputs = {"x": torch.randn(2, length, WIDTH)}
    path = UsageBasedStrategy()(request_for(model, inputs, candidate, tmp_path, axes=axes)).path
    assert largest_error(path, model, inputs) < 1e-5
    assert not torchscript.is_tracing()
    return path


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in hierarchy.all_nodes(ir.load(path).graph))


class Gathering(nn.Module):
    """Joins what the steps put into two lists, one of which began with something else."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, more = [], [x[:, 0]]
        for i in range(x.shape[1]):
            rows.append(x[:, i] * 2)
            more.append(x[:, i] + 1)
        last = x.sum(1)
        return torch.stack(rows, 1), torch.cat([*more, last], -2), torch.cat(more)


class Recurrent(nn.Module):
    """Goes over a tensor's rows, keeps a state, and has a list of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.zeros(x.shape[1], WIDTH)
        states = []
        for number, (row, before) in enumerate(zip(x, x.flip(0), strict=True)):
            state = self.step(row - before * number, state)
            states.append(state)
        return torch.stack(states), state


class Propagating(nn.Module):
    """Has nothing to go on with in its first step."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        kept, results = None, []
        for i in range(x.shape[1]):
            new = x[:, i]
            if kept is not None:
                new = new + self.updates(kept)
            results.append(new * 2)
            kept = new.tanh()
        return torch.cat(results, dim=-1)


def test_a_first_step_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Propagating().eval()
    path = export(model, tmp_path, 3)
    assert operators(path)["Loop"] == 1
    for shape in ((2, 1), (3, 2), (2, 11)):
        assert largest_error(path, model, {"x": torch.randn(*shape, WIDTH)}) < 1e-5


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(
    "kind", [Gathering, Recurrent, Remembering, Blocks, CallingModules, Nested, ByChunks]
)
def test_other_numbers_of_steps(kind: type[nn.Module], length: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    # One that begins with the second step has none at length 1.
    path = export(model, tmp_path, max(length, 2) if kind is CallingModules else length)
    assert operators(path)["Loop"] == (2 if kind is Nested else 1)
    for shape in ((2, 1), (3, 2), (1, 5), (2, 11)):
        assert largest_error(path, model, {"x": torch.randn(*shape, WIDTH)}) < 1e-5


def test_steps_belong_to_the_module_that_takes_them(tmp_path: Path) -> None:
    graph = ir.load(export(CallingModules().eval(), tmp_path, 5)).graph
    (loop,) = (node for node in graph if node.op_type == "Loop")
    paths = {
        node.metadata_props[hierarchy.MODULE]
        for node in hierarchy.all_nodes(loop.attributes["body"].as_graph())
    }
    assert paths == {"", "step"}
    assert loop.metadata_props[hierarchy.ATTRIBUTION] == hierarchy.TRACED


def test_a_file_without_axes_that_vary_has_its_loops_unrolled(tmp_path: Path) -> None:
    assert "Loop" not in operators(export(Remembering().eval(), tmp_path, 3, dynamic=False))


class Counting(nn.Module):
    """Does not the same at every step."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for i in range(x.shape[1]):
            total = total + x[:, i] if i % 2 == 0 else total * 2
        return total


class Choosing(nn.Module):
    """Has a module for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for i in range(x.shape[1]):
            total = self.parts[i](total + x[:, i])
        return total


class Weighing(nn.Module):
    """Has a plain number that changes with every step."""

    def forward(self, x: Tensor) -> Tensor:
        total, weight = torch.zeros_like(x[:, 0]), 1.0
        for i in range(x.shape[1]):
            total = total + x[:, i] * weight
            weight *= 0.5
        return total


class Leaking(nn.Module):
    """What the last step computed is read after it."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for i in range(x.shape[1]):
            last = x[:, i] * 2
            total = total + last
        return total * last


class Filling(nn.Module):
    """Leaves a list with two elements for each step."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for i in range(x.shape[1]):
            rows.append(x[:, i] * 2)
            rows.append(x[:, i] * 3)
        return torch.stack(rows, 1)


class Picking(nn.Module):
    """Reads one element of a list that has one for each step."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for row in x:
            rows.append(row * 2)  # noqa: PERF401 - as models write it
        last: Tensor = rows[-1]
        return last


@pytest.mark.parametrize("kind", [Counting, Choosing, Weighing, Leaking, Filling, Picking])
def test_what_cannot_be_kept_is_unrolled(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert "Loop" not in operators(export(kind().eval(), tmp_path, 3))


class Cutting(nn.Module):
    """Images of any number and sizes in one tensor, each by itself, as vision models do it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, 4, 3, padding=1)

    def forward(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        pieces = torch.split(x, grid.prod(-1).tolist(), dim=0)
        images, sizes = [], []
        for piece, (height, width) in zip(pieces, grid, strict=True):
            image = self.conv(piece.view(1, height, width, WIDTH).permute(0, 3, 1, 2))
            images.append(image.flatten(2)[0].transpose(0, 1))
        for height, width in grid.tolist():
            sizes.append(torch.arange(height).repeat_interleave(width) * width)
        return torch.cat(images), torch.cat(sizes, dim=0)


class CuttingByLists(nn.Module):
    """The same by lengths that comprehensions compute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.repeats = 1

    def forward(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        sizes = grid.tolist()
        lengths = [self.repeats * height * width for height, width in sizes]
        areas = [
            size[0] * size[1]  # of rows that are tensors
            for size in grid
        ]
        images, tokens = [], []
        for piece, (height, width) in zip(torch.split(x, lengths), sizes, strict=True):
            image = self.conv(piece.view(1, height, width, WIDTH).permute(0, 3, 1, 2))
            images.append(image.flatten(2)[0].transpose(0, 1))
        for piece in torch.split(x, areas):
            mean = piece.mean(0)
            tokens.append(mean)
        return torch.cat(images), torch.stack(tokens)


def images(*grid: tuple[int, int]) -> dict[str, Tensor]:
    sizes = torch.tensor(grid)
    return {"x": torch.randn(int(sizes.prod(1).sum()), WIDTH), "grid": sizes}


@pytest.mark.parametrize("kind", [Cutting, CuttingByLists])
def test_other_numbers_of_images(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    axes = {"x": {0: "total"}, "grid": {0: "images"}}
    candidate = Candidate(strategy="usage_based", dynamic=True)
    request = request_for(model, images((2, 3), (4, 2)), candidate, tmp_path, axes=axes)
    path = UsageBasedStrategy()(request).path
    assert operators(path)["Loop"] == 2
    for grid in (((2, 3), (4, 2)), ((5, 1),), ((1, 2), (3, 3), (2, 4))):
        assert largest_error(path, model, images(*grid)) < 1e-5
