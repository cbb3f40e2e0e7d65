"""Plain modules that move values about: sort, gather, scatter, mask, pad, fold, reshape."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, count, floats, whole, within


class Sorting(nn.Module):
    """Sorts, ranks and picks the largest."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, items) to tensors of the same shape or less."""
        ordered, places = torch.sort(x, dim=1, descending=True, stable=True)
        best = torch.topk(x, k=3, dim=1)
        return {
            "sorted": ordered,
            "places": places,
            "ranks": places.argsort(dim=1),
            "best": best.values,
            "which": best.indices,
            "worst": torch.topk(x, 2, largest=False, sorted=True).values,
            "range": torch.stack([x.min(dim=1).values, x.max(dim=1).values]),
        }


class Nucleus(nn.Module):
    """Top-p sampling's filter: keeps the likeliest tokens up to a share of the mass."""

    def forward(self, logits: Tensor, share: float = 0.8) -> Tensor:
        """Keeps (batch, items)."""
        ordered, places = torch.sort(logits, descending=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        dropped = mass > share
        dropped[..., 1:] = dropped[..., :-1].clone()
        dropped[..., 0] = False
        dropped = dropped.scatter(1, places, dropped)
        return logits.masked_fill(dropped, float("-inf")).softmax(dim=-1)


class Gathering(nn.Module):
    """Reads by index in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 4))

    def forward(self, index: Tensor, x: Tensor) -> dict[str, Tensor]:
        """(batch, 3) below 5 and (batch, 5, 4) to what is read."""
        rows = torch.arange(x.shape[0])
        return {
            "table": self.table[index],
            "embedded": functional.embedding(index, self.table),
            "selected": torch.index_select(x, 1, index[0]),
            "gathered": torch.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, 4)),
            "pairs": x[rows, index[:, 0]],
            "along": torch.take_along_dim(x, index.unsqueeze(-1), dim=1),
            "crossed": x[rows[:, None], index, 1:3],
            "taken": x.take(index),
            "negative": x[:, -1, ::2],
            "ends": x[..., [0, -1]],
        }


class Scattering(nn.Module):
    """Writes by index in every way there is."""

    def forward(self, index: Tensor, x: Tensor) -> dict[str, Tensor]:
        """(points,) below 6 and (points, 4) to six rows each."""
        zeros = torch.zeros(6, 4)
        spread = index.unsqueeze(-1).expand_as(x)
        put = zeros.clone()
        put.index_put_((index,), x, accumulate=True)
        return {
            "added": zeros.scatter_add(0, spread, x),
            "index_added": zeros.index_add(0, index, x, alpha=2),
            "largest": zeros.scatter_reduce(0, spread, x, reduce="amax", include_self=False),
            "put": put,
            "marked": torch.zeros(6).index_fill(0, index, 1.0),
            "degrees": torch.zeros(6).scatter_add_(0, index, torch.ones_like(index).float()),
        }


class ScatterMean(nn.Module):
    """Means by segment, as graph networks and point clouds take them."""

    def forward(self, index: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(points,) below 6 and (points, 4) to two of six rows."""
        spread = index.unsqueeze(-1).expand_as(x)
        mean = torch.zeros(6, 4).scatter_reduce(0, spread, x, reduce="mean", include_self=False)
        return mean, torch.ones(6, 4).scatter_reduce(0, spread, x, reduce="prod")


class GraphConvolution(nn.Module):
    """Passes messages along edges, normalised by degree."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 3)])

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(points, 5) and (2, edges) to (points, 3)."""
        source, target = edges
        degree = torch.ones(nodes.size(0)).index_add(0, target, torch.ones(target.size(0)))
        scale = degree.rsqrt()[source] * degree.rsqrt()[target]
        for layer in self.layers:
            nodes = layer(nodes)
            messages = nodes[source] * scale.unsqueeze(-1)
            nodes = torch.relu(nodes.index_add(0, target, messages))
        return nodes


class GraphAttention(nn.Module):
    """Attends over each node's edges, with a softmax by segment."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 6)
        self.score = nn.Linear(12, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(points, 5) and (2, edges) to (points, 6)."""
        source, target = edges[0], edges[1]
        hidden = self.layer(nodes)
        paired = torch.cat([hidden[source], hidden[target]], dim=-1)
        scores = functional.leaky_relu(self.score(paired)).squeeze(-1)
        start = torch.full((nodes.shape[0],), -1e9)
        top = start.scatter_reduce(0, target, scores, reduce="amax")
        weights = torch.exp(scores - top[target])
        total = torch.zeros(nodes.shape[0]).scatter_add(0, target, weights)
        messages = hidden[source] * (weights / total[target]).unsqueeze(-1)
        return torch.zeros_like(hidden).index_add_(0, target, messages)


class Masked(nn.Module):
    """Masks, selects and counts by true and false; how much comes out depends on values."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, items) to flat tensors of any length, and one of the same shape."""
        chosen = x > 0
        out = x.clone()
        out[chosen] = x[chosen] * 2
        return {
            "selected": torch.masked_select(x, chosen),
            "places": torch.nonzero(chosen),
            "scattered": x.masked_scatter(chosen, -x.abs()),
            "doubled": out,
            "kept": x[chosen.any(dim=1)],
        }


class Unique(nn.Module):
    """The values that occur, and how often."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(points,) to values, places and counts."""
        values, places, counts = torch.unique(tokens, return_inverse=True, return_counts=True)
        return values, places, counts


class Repeating(nn.Module):
    """Repeats each row as often as a tensor says, as text to speech does with lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, durations: Tensor) -> Tensor:
        """(items, 4) and (items,) to (frames, 4)."""
        out: Tensor = self.layer(torch.repeat_interleave(x, durations, dim=0))
        return out


class Padding(nn.Module):
    """Every way to pad, and to cut off again."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) to larger and smaller ones."""
        return {
            "constant": functional.pad(image, (1, 2, 3, 0), value=0.5),
            "reflect": functional.pad(image, (2, 2, 1, 1), mode="reflect"),
            "replicate": functional.pad(image, (2, 0, 0, 3), mode="replicate"),
            "circular": functional.pad(image, (1, 1, 2, 2), mode="circular"),
            "cut": functional.pad(image, (-1, -2, 0, -1)),
            "channels": functional.pad(image, (0, 0, 0, 0, 1, 0)),
        }


class PadToMultiple(nn.Module):
    """Pads an image to a multiple of 16, works on it, and cuts it to its size again."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, stride=16)
        self.pixels = nn.ConvTranspose2d(8, 3, 16, stride=16)

    def forward(self, image: Tensor) -> Tensor:
        """Keeps (batch, 3, height, width)."""
        height, width = image.shape[-2:]
        padded = functional.pad(image, (0, -width % 16, 0, -height % 16))
        out: Tensor = self.pixels(self.patches(padded).relu())
        return out[..., :height, :width]


class Folding(nn.Module):
    """Takes an image apart into overlapping patches, and puts it together."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16, 3 * 16)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 3, 16, 24) to the same and its windows."""
        patches = functional.unfold(image, kernel_size=4, stride=2, padding=1)
        changed = self.layer(patches.transpose(1, 2)).transpose(1, 2)
        folded = functional.fold(changed, (16, 24), kernel_size=4, stride=2, padding=1)
        return folded, image.unfold(2, 8, 4).unfold(3, 8, 4).mean(dim=(-2, -1))


class Strides(nn.Module):
    """Overlapping frames of a signal by strides, and local neighbourhoods by views."""

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(40,) to (9, 8) and (5, 8)."""
        frames = torch.as_strided(wave, (9, 8), (4, 1))
        return frames * torch.hamming_window(8, periodic=False), wave.view(5, 8).mT.mT


class Resizing(nn.Module):
    """Every way to resize."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) to other sizes."""
        return {
            "nearest": functional.interpolate(image, scale_factor=2, mode="nearest"),
            "exact": functional.interpolate(image, size=(10, 14), mode="nearest-exact"),
            "bilinear": functional.interpolate(image, scale_factor=0.5, mode="bilinear"),
            "aligned": functional.interpolate(
                image, size=(32, 20), mode="bilinear", align_corners=True
            ),
            "antialiased": functional.interpolate(
                image, size=(8, 8), mode="bilinear", antialias=True
            ),
            "bicubic": functional.interpolate(image, size=(20, 20), mode="bicubic"),
            "area": functional.interpolate(image, size=(8, 12), mode="area"),
            "shuffled": functional.pixel_unshuffle(image, 2),
        }


class Grids(nn.Module):
    """Coordinates made in forward: meshes, triangles, rotations, and flows that sample an image."""

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        """(batch, 3, height, width) and (batch, 2, height, width) to the former, warped."""
        height, width = image.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        x = 2 * (columns + flow[:, 0]) / (width - 1) - 1
        y = 2 * (rows + flow[:, 1]) / (height - 1) - 1
        grid = torch.stack([x, y], dim=-1)
        warped = functional.grid_sample(image, grid, mode="bilinear", align_corners=True)
        inside = (grid.abs() <= 1).all(dim=-1)
        return torch.where(inside.unsqueeze(1), warped, image)


class Deformable(nn.Module):
    """Samples a feature map at learnt offsets around given points, at two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Linear(8, 2 * 3 * 2)
        self.weights = nn.Linear(8, 2 * 3)

    def forward(self, queries: Tensor, points: Tensor, image: Tensor) -> Tensor:
        """(batch, items, 8), (batch, items, 2), (batch, 8, height, width) to the first."""
        batch, items = queries.shape[:2]
        offsets = self.offsets(queries).view(batch, items, 2, 3, 2).tanh() * 0.1
        weights = self.weights(queries).softmax(dim=-1).view(batch, 1, items, 2, 3)
        total = torch.zeros_like(queries)
        for level, features in enumerate((image, functional.avg_pool2d(image, 2))):
            places = 2 * (points.unsqueeze(2) + offsets[:, :, level]) - 1
            sampled = functional.grid_sample(features, places, align_corners=False)
            total = total + (sampled * weights[:, :, :, level]).sum(-1).transpose(1, 2)
        return total


class RegionAlign(nn.Module):
    """Samples each box of an image on a grid of fixed size, as detectors' heads do."""

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        """(3, height, width) and (points, 4), 0 to 1, to (points, 3, 4, 4)."""
        low, size = boxes[:, :2], boxes[:, 2:]
        centres = (torch.arange(4) + 0.5) / 4
        places = low[:, None, :] + centres[None, :, None] * size[:, None, :]
        x, y = places[:, :, 0], places[:, :, 1]
        grid = torch.stack([x[:, None, :].expand(-1, 4, -1), y[:, :, None].expand(-1, -1, 4)], -1)
        images = image.unsqueeze(0).expand(boxes.shape[0], -1, -1, -1)
        return functional.grid_sample(images, 2 * grid - 1, align_corners=False)


class Triangles(nn.Module):
    """Triangles, diagonals, traces and rolls of square matrices."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, 5, 5) to parts of it."""
        return {
            "lower": torch.tril(x, diagonal=-1),
            "upper": x.triu(1).transpose(1, 2),
            "diagonal": torch.diagonal(x, dim1=1, dim2=2),
            "embedded": torch.diag_embed(x[:, 0]),
            "rolled": torch.roll(x, shifts=2, dims=1),
            "turned": torch.rot90(x, 1, dims=(1, 2)),
            "flipped": x.flip(1, 2),
        }


class Diagonal(nn.Module):
    """Leaves each item's similarity to itself out, by writing over the diagonal."""

    def forward(self, x: Tensor) -> Tensor:
        """(items, 4) to (items, items)."""
        similar = functional.normalize(x, dim=-1) @ functional.normalize(x, dim=-1).T
        similar.fill_diagonal_(-1e4)
        return similar.softmax(dim=-1)


class Shapes(nn.Module):
    """Views, permutations, splits and joins, sizes from other tensors."""

    def forward(self, x: Tensor, like: Tensor) -> dict[str, Tensor]:
        """(batch, steps, 6) and (batch, targets) to reshaped tensors."""
        batch, steps, width = x.shape
        first, *others = x.unbind(dim=-1)
        return {
            "split": x.view(batch, steps, 2, -1).permute(2, 0, 1, 3),
            "flat": x.reshape(-1, width),
            "expanded": x.new_ones(1).expand_as(like) + like,
            "tiled": x.tile(1, 2, 1),
            "repeated": like.repeat(2, 1),
            "moved": x.movedim(-1, 0).swapaxes(0, 1),
            "chunks": torch.cat(x.chunk(3, dim=-1)[::-1], dim=-1),
            "columns": first + torch.stack(others).sum(dim=0),
            "squeezed": x[:, :1].squeeze(1).unsqueeze(0).view(1, batch, 3, 2),
            "paired": x.unsqueeze(2).expand(-1, -1, like.shape[1], -1)[..., 0],
            "numbered": torch.arange(x.size(1)).expand(batch, -1),
        }


class Windowed(nn.Module):
    """A slice whose place comes from values."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """(batch, steps) and a place to (batch, 2)."""
        place = int(start)
        return x[:, place : place + 2] * 2


MODULES = {
    "sorting": Plain(build=Sorting, inputs={"x": floats("batch items")}),
    "nucleus": Plain(build=Nucleus, inputs={"logits": floats("batch items"), "share": 0.7}),
    "gathering": Plain(
        build=Gathering, inputs={"index": whole("batch 3", 5), "x": floats("batch 5 4")}
    ),
    "scattering": Plain(
        build=Scattering, inputs={"index": whole("points", 6), "x": floats("points 4")}
    ),
    "scatter_mean": Plain(
        build=ScatterMean, inputs={"index": whole("points", 6), "x": floats("points 4")}
    ),
    "graph_convolution": Plain(
        build=GraphConvolution,
        inputs={"nodes": floats("points 5"), "edges": whole("2 edges", 9)},
    ),
    "graph_attention": Plain(
        build=GraphAttention,
        inputs={"nodes": floats("points 5"), "edges": whole("2 edges", 9)},
    ),
    "masked": Plain(build=Masked, inputs={"x": floats("batch items")}),
    "unique": Plain(build=Unique, inputs={"tokens": whole("points", 6)}),
    "repeating": Plain(
        build=Repeating,
        inputs={"x": floats("items 4"), "durations": whole("items", 5)},
    ),
    "padding": Plain(build=Padding, inputs={"image": floats("batch 3 height width")}),
    "pad_to_multiple": Plain(build=PadToMultiple, inputs={"image": floats("batch 3 length width")}),
    "folding": Plain(build=Folding, inputs={"image": floats("batch 3 16 24")}),
    "strides": Plain(build=Strides, inputs={"wave": floats("40")}),
    "resizing": Plain(build=Resizing, inputs={"image": floats("batch 3 height width")}),
    "grids": Plain(
        build=Grids,
        inputs={
            "image": floats("batch 3 height width"),
            "flow": floats("batch 2 height width"),
        },
    ),
    "deformable": Plain(
        build=Deformable,
        inputs={
            "queries": floats("batch items 8"),
            "points": within("batch items 2", 0.0, 1.0),
            "image": floats("batch 8 height width"),
        },
    ),
    "region_align": Plain(
        build=RegionAlign,
        inputs={"image": floats("3 height width"), "boxes": within("points 4", 0.1, 0.5)},
    ),
    "triangles": Plain(build=Triangles, inputs={"x": floats("batch 5 5")}),
    "diagonal": Plain(build=Diagonal, inputs={"x": floats("items 4")}),
    "shapes": Plain(
        build=Shapes, inputs={"x": floats("batch steps 6"), "like": floats("batch targets")}
    ),
    "windowed": Plain(build=Windowed, inputs={"x": floats("batch steps"), "start": count(2)}),
}
