"""Draws the values of example inputs: the same for the same seed, sizes and style."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from selector.cases import STYLES, InputSpec, patches_of_a_row

SCALES = {"large": 8.0, "small": 0.125}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    sizes: Mapping[str, int]
    seed: int
    style: str


def draw_case(
    specs: Sequence[InputSpec], sizes: Mapping[str, int], *, seed: int, style: str
) -> dict[str, torch.Tensor]:
    """One tensor per spec, in the order of the specs.

    Raises:
        ValueError: The style is unknown.
    """
    if style not in STYLES:
        msg = f"unknown style {style!r}; known: {', '.join(STYLES)}"
        raise ValueError(msg)
    case = _Case(sizes=sizes, seed=seed, style=style)
    return {spec.name: _draw(spec, _shape(spec, sizes), case) for spec in specs}


def _shape(spec: InputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes)


def _draw(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    own = case.seed == 0 and case.style == "example"
    if spec.example is not None and (spec.fill == "example" or own):
        return _as_given(spec, shape, case)
    drawn = DRAWERS[spec.fill](spec, shape, case)
    return drawn.to(getattr(torch, spec.dtype))


def _generator(seed: int, *key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32("/".join((str(seed), *key)).encode()))


def _row_lengths(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    """How many tokens of every row are real, shape `shape[:-1]`.

    Depends on nothing but the seed and the shape, so that ids and mask agree. The last
    row always has padding, the first one has none where there is more than one.
    """
    columns, rows = shape[-1], shape[:-1]
    rules = spec.tokens
    if case.style == "unpadded" or columns < 2 or (rules and not rules.padded):
        return torch.full(rows, columns)
    counts = _placeholder_counts(spec, shape, case)
    needed = sum(counts) + max(len(counts), 1) + 1 if rules else 1
    least = min(max(columns // 2, needed), columns - 1)
    lengths = torch.randint(least, columns, rows, generator=_generator(case.seed, "rows"))
    flat = lengths.view(-1)
    if flat.numel() > 1:
        flat[0] = columns
    return lengths


def _with_placeholders(ids: torch.Tensor, spec: InputSpec, case: _Case) -> torch.Tensor:
    first = 1
    kinds = spec.tokens.placeholders if spec.tokens else ()
    for kind, count in zip(kinds, _placeholder_counts(spec, tuple(ids.shape), case), strict=True):
        ids[..., first : first + count] = kind.token
        first += count + 1
    return ids


def _placeholder_counts(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> tuple[int, ...]:
    kinds = spec.tokens.placeholders if spec.tokens else ()
    return tuple(kind.in_row(shape[0], case.sizes) for kind in kinds)


def _real(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    lengths = _row_lengths(spec, shape, case)
    return torch.arange(shape[-1]) < lengths.unsqueeze(-1)


def _tokens(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    rules = spec.tokens
    ids = _ordinary(spec, shape, case)
    if rules is None or not shape:
        return ids
    real = _real(spec, shape, case)
    if rules.end is not None and shape[-1] > 1:
        last = real.sum(-1, keepdim=True) - 1
        ids.scatter_(-1, last, rules.end)
    if rules.start is not None:
        ids[..., 0] = rules.start
    _with_placeholders(ids, spec, case)
    if rules.pad is not None:
        ids[~real] = rules.pad
    return ids


def _ordinary(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    avoid = spec.tokens.avoid if spec.tokens else ()
    low, high = int(spec.low), int(spec.high)
    taken = sorted({token for token in avoid if low <= token < high})
    if len(taken) >= high - low:
        taken = []
    ids = torch.randint(
        low, high - len(taken), shape, generator=_generator(case.seed, spec.name, case.style)
    )
    for token in taken:
        # Counting past every taken id, smallest first, leaves no id that is taken.
        ids += ids >= token
    return ids


def _mask(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    return _real(spec, shape, case) if shape else torch.ones(shape)


def _observed(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    drawn = torch.rand(shape, generator=_generator(case.seed, spec.name, case.style)) < 0.85
    if case.style == "unpadded" or len(shape) < 2:
        return torch.ones(shape)
    drawn[:, 0] = True
    return drawn


def _integers(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    low, high = int(spec.low), max(int(spec.high), int(spec.low) + 1)
    middle = (low + high) // 2
    if case.style in ("large", "positive"):
        low = min(middle, high - 1)
    elif case.style in ("small", "negative"):
        high = max(middle, low + 1)
    return torch.randint(low, high, shape, generator=_generator(case.seed, spec.name, case.style))


def _normal(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    noise = torch.randn(shape, generator=_generator(case.seed, spec.name, case.style))
    return _styled(spec.low + spec.high * noise, case.style)


def _uniform(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    noise = torch.rand(shape, generator=_generator(case.seed, spec.name, case.style))
    drawn = spec.low + (spec.high - spec.low) * noise
    # A made-up range that begins at zero means something, a point in an image for instance.
    free = spec.low < 0 or spec.example is not None
    return _styled(drawn, case.style) if free else drawn


def _styled(drawn: torch.Tensor, style: str) -> torch.Tensor:
    if style == "positive":
        return drawn.abs()
    if style == "negative":
        return -drawn.abs()
    return drawn * SCALES.get(style, 1.0)


def _boxes(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    noise = torch.rand(shape, generator=_generator(case.seed, spec.name, case.style))
    corners = spec.low + (spec.high - spec.low) * noise.view(*shape[:-1], 2, 2)
    return torch.sort(corners, dim=-2).values.view(shape)


def _grid(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    sides = _sides(spec, shape[0], case)
    row = torch.tensor([1] * (shape[-1] - 2) + sides)
    return row.expand(shape).clone()


def _places(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    rows, columns = _sides(spec, shape[0], case)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2).expand(shape).clone()


def _sides(spec: InputSpec, images: int, case: _Case) -> list[int]:
    """Rows and columns of every image's patches, as near to a square as they go."""
    step = int(spec.low)
    columns = patches_of_a_row(images, case.sizes)
    blocks, rest = divmod(columns, step * step * int(spec.high))
    if rest or not blocks:
        msg = f"{spec.name}: the patches make no image of {step} by {step} blocks"
        raise ValueError(msg)
    rows = next(rows for rows in range(math.isqrt(blocks), 0, -1) if blocks % rows == 0)
    return [rows * step, blocks // rows * step]


def _image_sides(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    del spec
    return torch.tensor([case.sizes["height"], case.sizes["width"]]).expand(shape).clone()


def _span(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    return _with_placeholders(torch.zeros(shape), spec, case)


def _positions(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    starts = _integers(replace(spec, low=0, high=4), (*shape[:-1], 1), case)
    return starts + torch.arange(shape[-1])


def _constant(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    del case
    return torch.full(shape, spec.low)


def _as_given(spec: InputSpec, shape: tuple[int, ...], case: _Case) -> torch.Tensor:
    del case
    if spec.example is None:
        msg = f"{spec.name} has no example"
        raise ValueError(msg)
    tiles = [
        -(-wanted // max(has, 1)) for wanted, has in zip(shape, spec.example.shape, strict=True)
    ]
    tiled = spec.example.repeat(tiles) if tiles else spec.example.clone()
    return tiled[tuple(slice(size) for size in shape)]


Drawer = Callable[[InputSpec, tuple[int, ...], _Case], torch.Tensor]

DRAWERS: dict[str, Drawer] = {
    "tokens": _tokens,
    "mask": _mask,
    "observed": _observed,
    "integers": _integers,
    "counts": _integers,
    "normal": _normal,
    "uniform": _uniform,
    "boxes": _boxes,
    "grid": _grid,
    "places": _places,
    "sides": _image_sides,
    "span": _span,
    "positions": _positions,
    "constant": _constant,
    "example": _as_given,
}
