"""Plain modules whose forward branches, loops, exits early, or goes a way that values choose."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, count, floats, truths, within


class Branch(nn.Module):
    """Takes one of two unequal ways, by the sum of the input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(6, 6)
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 6) to (batch, 6)."""
        if bool(x.sum() > 0):
            out: Tensor = self.second(torch.relu(self.first(x)))
        else:
            out = torch.tanh(self.small(x)) * 3
        return out


class Condition(nn.Module):
    """The same with `torch.cond`, which keeps both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 6)."""
        out: Tensor = torch.cond(x.sum() > 0, _grown, _shrunk, (self.layer(x),))
        return out


def _grown(x: Tensor) -> Tensor:
    return x * 2 + 1


def _shrunk(x: Tensor) -> Tensor:
    return torch.tanh(x)


class Converging(nn.Module):
    """Repeats a contraction until it stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        with torch.no_grad():
            self.layer.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps (batch, 5)."""
        z, rounds = torch.zeros_like(x), 0
        change = torch.tensor(1.0)
        while change > 1e-5 and rounds < 30:
            new = torch.tanh(self.layer(z) + x)
            change = (new - z).abs().max()
            z, rounds = new, rounds + 1
        return z


class EarlyExit(nn.Module):
    """Leaves after the first block where that one is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8) to (batch, 4)."""
        logits = torch.zeros(x.shape[0], 4)
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = torch.relu(block(x))
            logits = head(x)
            if logits.softmax(-1).amax(-1).min().item() > 0.35:
                break
        return logits


class ShapeBranch(nn.Module):
    """Does one thing for short sequences and another for long ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, steps, 4) to (batch, 8, 4): padded where shorter, pooled where longer."""
        x = self.layer(x)
        if x.shape[1] < 8:
            return functional.pad(x, (0, 0, 0, 8 - x.shape[1]))
        return functional.adaptive_avg_pool1d(x.transpose(1, 2), 8).transpose(1, 2)


class Checked(nn.Module):
    """Checks its input's values first, and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch, 3)."""
        if torch.isnan(x).any():
            raise ValueError("not a number in the input")
        if x.dim() != 2:
            x = x.reshape(-1, 4)
        out: Tensor = self.layer(x)
        return out


class Routed(nn.Module):
    """Looks its way up by a name given from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleDict({"wide": nn.Linear(4, 8), "narrow": nn.Linear(4, 2)})

    def forward(self, x: Tensor, way: str = "narrow") -> Tensor:
        """(batch, 4) to (batch, 2), or 8 the wide way."""
        out: Tensor = self.ways[way](x)
        return out


class Recursive(nn.Module):
    """Folds a sequence pairwise, calling itself on half as many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8, 4) to (batch, 4)."""
        if x.shape[1] == 1:
            return x[:, 0]
        halves = torch.cat([x[:, 0::2], x[:, 1::2]], dim=-1)
        return self.forward(torch.tanh(self.join(halves)))


class Suppression(nn.Module):
    """Non-maximum suppression: keeps the best box, drops what overlaps it, and so on."""

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """(points, 4) as corner and size, and (points,), to the kept ones' indices."""
        order = scores.argsort(descending=True)
        left_top, right_bottom = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        areas = boxes[:, 2:].prod(dim=-1)
        kept = []
        while order.numel() > 0:
            best, rest = order[0], order[1:]
            kept.append(best)
            low = torch.maximum(left_top[best], left_top[rest])
            high = torch.minimum(right_bottom[best], right_bottom[rest])
            shared = (high - low).clamp(min=0).prod(dim=-1)
            order = rest[shared / (areas[best] + areas[rest] - shared) <= 0.3]
        return torch.stack(kept)


class Scripted(nn.Module):
    """Calls a function that TorchScript compiled, with a loop in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, rounds: Tensor) -> Tensor:
        """(batch, 4) and a count to (batch, 4)."""
        out: Tensor = repeated(self.layer(x), int(rounds))
        return out


@torch.jit.script
def repeated(x: Tensor, rounds: int) -> Tensor:
    """Shrinks its argument a number of times, by how large it is."""
    for _ in range(rounds):
        x = x / 2 if bool(x.abs().max() > 1.0) else torch.sin(x)
    return x


class Choosing(nn.Module):
    """Chooses row by row between two ways, both of which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.ways: Iterable[nn.Module] = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """(batch, 4) and (batch,) to (batch, 3)."""
        one, other = (way(x) for way in self.ways)
        return torch.where(first.unsqueeze(-1), one, other) * (~first.any()).logical_not()


MODULES = {
    "branch": Plain(build=Branch, inputs={"x": floats("batch 6")}),
    "condition": Plain(build=Condition, inputs={"x": floats("batch 6")}),
    "converging": Plain(build=Converging, inputs={"x": floats("batch 5")}),
    "early_exit": Plain(build=EarlyExit, inputs={"x": floats("batch 8")}),
    "shape_branch": Plain(build=ShapeBranch, inputs={"x": floats("batch steps 4")}),
    "checked": Plain(build=Checked, inputs={"x": floats("batch 4")}),
    "routed": Plain(build=Routed, inputs={"x": floats("batch 4"), "way": "wide"}),
    "recursive": Plain(build=Recursive, inputs={"x": floats("batch 8 4")}),
    "suppression": Plain(
        build=Suppression,
        inputs={"boxes": within("points 4", 0.1, 1.0), "scores": within("points", 0.0, 1.0)},
    ),
    "scripted": Plain(build=Scripted, inputs={"x": floats("batch 4"), "rounds": count(3)}),
    "choosing": Plain(build=Choosing, inputs={"x": floats("batch 4"), "first": truths("batch")}),
}
