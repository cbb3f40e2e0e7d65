"""Packed images of any number and size, in the form that captures can keep open.

transformers' vision towers take the patches of all images in one long tensor and a grid
that says which are whose. What they derive from the grid (positions, windows, segments of
attention) they compute in loops over its values, which a capture freezes or refuses. Here
each is computed for every patch from the grid by arithmetic, so that all sizes follow from
the tensor's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strategies.exportable import CHOICES
from strategies.patching import attribute, entry

_HELPERS = "transformers.vision_utils"
# Attention of this kind is handed the segments; the name must contain what transformers
# looks for.
_ATTENTION = "autoexport_flash_packed"
_GRID, _SEGMENTS = "grid_thw", "cu_seqlens"


class PackedVision:
    """What of a model works on packed images.

    To be made before anything patches the classes of the model's modules.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = list(model.modules()) if _HELPERS in sys.modules else []
        self._towers = [part for part in parts if _GRID in _parameters(part)]
        attentions = [part for part in parts if _hands_over_segments(part)] if self._towers else []
        self._configs = list({id(part.config): part.config for part in attentions}.values())
        # Patches replace what is in the class.
        self._forwards = {owner: owner.forward for owner in map(_owner_of_forward, attentions)}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model computes the same, without looking at the grid's values."""
        if not self._towers:
            yield
            return
        from transformers import AttentionInterface  # noqa: PLC0415 - slow, and only these models need it

        AttentionInterface.register(_ATTENTION, _attend)
        rows: list[int | None] = []
        with ExitStack() as stack:
            for tower in self._towers:
                enter, leave = _noting_rows(rows)
                stack.callback(tower.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(tower.register_forward_hook(leave, always_call=True).remove)
            for config in self._configs:
                stack.enter_context(entry(vars(config), CHOICES[0], _ATTENTION))
            for kind, forward in self._forwards.items():
                stack.enter_context(attribute(kind, "forward", forward))
            _replace_helpers(rows, stack)
            yield


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(module.forward).parameters


def _hands_over_segments(module: nn.Module) -> bool:
    """Whether a module leaves its attention to a function that knows the segments."""
    is_theirs = type(module).__module__.startswith("transformers.") and hasattr(module, "config")
    takes_segments = is_theirs and _SEGMENTS in _parameters(module)
    return takes_segments and "cu_seq_lens_q" in inspect.getsource(type(module).forward)


def _owner_of_forward(module: nn.Module) -> Any:
    return next(kind for kind in type(module).__mro__ if "forward" in vars(kind))


def _noting_rows(rows: list[int | None]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that keep how many patches the running tower was given."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        tensors = (
            value for name, value in bound.items() if name != _GRID and isinstance(value, Tensor)
        )
        patches = next(tensors, None)
        # Some towers get all patches as one batch.
        sizes = () if patches is None else patches.shape
        rows.append(next((size for size in sizes if not _is_one(size)), None))

    def leave(*_: object) -> None:
        rows.pop()

    return enter, leave


def _is_one(size: Any) -> bool:
    """Whether a size is one whatever the inputs; those that may vary never are in an example."""
    return not isinstance(size, torch.SymInt) and int(size) == 1


def _replace_helpers(rows: list[int | None], stack: ExitStack) -> None:
    """Replaces transformers' functions on grids wherever a module of Python names them."""
    replacements: dict[Any, Callable[..., Any]] = {}
    for module in [
        sys.modules[name] for name in list(sys.modules) if name.startswith("transformers.")
    ]:
        for name, function in _FUNCTIONS.items():
            original = vars(module).get(name)
            if original is None or original.__module__ not in {_HELPERS, module.__name__}:
                continue
            replacement = replacements.setdefault(
                original, _answering(name, original, function, rows)
            )
            stack.enter_context(attribute(module, name, replacement))
        if "get_max_seqlen" in vars(module):
            stack.enter_context(attribute(module, "get_max_seqlen", _no_longest))


def _answering(
    name: str, original: Callable[..., Any], function: Callable[..., Any], rows: list[int | None]
) -> Callable[..., Any]:
    """The function where the number of patches is known and nothing was computed before."""
    signature = inspect.signature(original)
    accepted = inspect.signature(function).parameters

    def answer(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments.get("kwargs") or {}
        if not rows or rows[-1] is None or any(key in given for key in _PRECOMPUTED[name]):
            return original(*args, **kwargs)
        bound.apply_defaults()
        chosen = {key: value for key, value in bound.arguments.items() if key in accepted}
        return function(rows=rows[-1], **chosen)

    return answer


def _no_longest(
    cu_seqlens: Tensor,
    config: object,
    kwargs: dict[str, Any] | None = None,
    kwarg_name: str = "max_seqlen",
) -> None:
    """The longest segment, which nothing here asks for."""
    del cu_seqlens, config
    if kwargs is not None:
        kwargs.pop(kwarg_name, None)


def _attend(  # noqa: PLR0913 - what transformers hands over
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention within segments: across them it is masked."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: PLC0415 - as above

    del attention_mask
    ends = cu_seq_lens_q[1:]
    positions = torch.arange(query.shape[2], device=query.device)
    segment = (positions[:, None] >= ends[None, :]).sum(1)
    mask = (segment[:, None] == segment[None, :])[None, None]
    result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=False
    )
    return result


class _Patches:
    """Where each patch stands: in which image, frame, row and column.

    Patches of an image come frame by frame; within a frame by blocks of `merge` times
    `merge`, row by row.
    """

    def __init__(self, grid: Tensor, rows: int, merge: int | Tensor = 1) -> None:
        frames, heights, widths = grid.long().unbind(1)
        counts = frames * heights * widths
        ends = counts.cumsum(0)
        order = torch.arange(rows, device=grid.device)
        self.image = (order[:, None] >= ends[None, :]).sum(1)
        self.heights, self.widths = heights[self.image], widths[self.image]
        block = merge[self.image] if isinstance(merge, Tensor) else merge
        self.start = (ends - counts)[self.image]
        within = order - self.start
        self.frames = frames[self.image]
        self.frame = _quotient(within, self.heights * self.widths)
        rest = within - self.frame * self.heights * self.widths
        self.first_of_frame = rest == 0
        self.first_of_image = within == 0
        self.row, self.column = rest, rest
        area = block * block
        blocks = _quotient(self.widths, block)
        index, inner = _quotient(rest, area), rest % area
        self.row = _quotient(index, blocks) * block + _quotient(inner, block)
        self.column = index % blocks * block + inner % block

    def in_rows(self) -> Tensor:
        """Where each stands if those of a frame come row by row."""
        return self.start + (self.frame * self.heights + self.row) * self.widths + self.column


def _quotient(left: Tensor, right: int | Tensor) -> Tensor:
    return torch.div(left, right, rounding_mode="floor")


def _segment_ends(first: Tensor, size: int = 1) -> Tensor:
    """Cumulative lengths of segments from the flags of their first elements.

    Elements count `size` each. As many numbers as elements and one more, whatever the
    number of segments: behind the last segment come empty ones.
    """
    total = first.shape[0]
    starts = torch.arange(total, device=first.device)
    starts = torch.where(first, starts, total).sort().values
    return torch.cat([starts, starts.new_full((1,), total)]) * size


def cumulative_lengths(grid_thw: Tensor, rows: int, *, merge_temporal: bool = False) -> Tensor:
    """`transformers.vision_utils.get_vision_cu_seqlens`, followed by empty segments."""
    patches = _Patches(grid_thw, rows)
    return _segment_ends(patches.first_of_image if merge_temporal else patches.first_of_frame)


def positions(
    grid_thw: Tensor,
    rows: int,
    spatial_merge_size: int | Tensor,
    *,
    include_temporal: bool = False,
) -> Tensor:
    """`transformers.vision_utils.get_vision_position_ids`."""
    patches = _Patches(grid_thw, rows, spatial_merge_size)
    time = [patches.frame] if include_temporal else []
    return torch.stack([*time, patches.row, patches.column], dim=-1)


def windows(
    grid_thw: Tensor, rows: int, spatial_merge_size: int, window_size: int, patch_size: int
) -> tuple[Tensor, Tensor]:
    """`transformers.vision_utils.get_vision_window_index`, followed by empty windows."""
    side = window_size // spatial_merge_size // patch_size
    merged = spatial_merge_size**2
    scale = torch.tensor([1, spatial_merge_size, spatial_merge_size], device=grid_thw.device)
    grid = _quotient(grid_thw.long(), scale)
    tokens = _Patches(grid, rows // merged)
    # The order of windows, and of tokens in one: all in one number per token.
    frames, down, across = (grid.amax(0) + side).unbind(0)
    window = tokens.image * frames + tokens.frame
    window = (window * down + _quotient(tokens.row, side)) * across + _quotient(tokens.column, side)
    key = (window * side + tokens.row % side) * side + tokens.column % side
    ordered, index = key.sort()
    ordered = _quotient(ordered, side * side)
    first = torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])
    return index, _segment_ends(first, merged)


def interpolation(  # noqa: PLR0913 - the function's arguments
    grid_thw: Tensor,
    rows: int,
    num_grid_per_side: int,
    *,
    mode: str,
    align_corners: bool,
    spatial_merge_size: int,
    padding: str,
) -> tuple[Tensor, Tensor]:
    """`transformers.vision_utils.get_vision_interpolation_indices_and_weights`."""
    taps: Any = sys.modules[_HELPERS]._interpolation_axis_taps_weights  # noqa: SLF001 - the arithmetic on one axis has no public name
    patches = _Patches(grid_thw, rows, spatial_merge_size)
    options = num_grid_per_side, mode, align_corners, padding
    rows_taken, row_weights = taps(patches.row, patches.heights, *options)
    columns_taken, column_weights = taps(patches.column, patches.widths, *options)
    count = rows_taken.shape[1] ** 2
    indices = rows_taken[:, :, None] * num_grid_per_side + columns_taken[:, None, :]
    weights = row_weights[:, :, None] * column_weights[:, None, :]
    return indices.reshape(-1, count), weights.reshape(-1, count)


def blocks(grid_thw: Tensor, rows: int, merge_size: int) -> Tensor:
    """The order in which patches that come row by row come block by block."""
    return _Patches(grid_thw, rows, merge_size).in_rows()


def frames(grid_thw: Tensor, rows: int) -> Tensor:
    """The frame of each patch, counted from 1 where an image has more than one."""
    patches = _Patches(grid_thw, rows)
    return patches.frame + (patches.frames > 1).long()


def blocks_of_all_frames(
    grid_thw: Tensor, rows: int, kernel_height: int, kernel_width: int
) -> Tensor:
    """For each block the patches of all frames, of which every image has as many."""
    patches, area = _Patches(grid_thw, rows), kernel_height * kernel_width
    within = torch.arange(rows, device=grid_thw.device) - patches.start
    inner, rest = within % area, _quotient(within, area)
    block, across = _quotient(rest, patches.frames), _quotient(patches.widths, kernel_width)
    patches.frame = rest % patches.frames
    patches.row = _quotient(block, across) * kernel_height + _quotient(inner, kernel_width)
    patches.column = block % across * kernel_width + inner % kernel_width
    return patches.in_rows().reshape(-1, grid_thw[0, 0].item(), area)  # type: ignore[arg-type]  # an int


# Of `transformers.vision_utils`; the last three stand in models' own modules.
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "get_vision_cu_seqlens": cumulative_lengths,
    "get_vision_position_ids": positions,
    "get_vision_window_index": windows,
    "get_vision_interpolation_indices_and_weights": interpolation,
    "get_vision_pixel_shuffle_index": blocks,
    "get_vision_frame_index": frames,
    "get_vision_temporal_merge_index": blocks_of_all_frames,
}
# What callers may hand over instead.
_PRECOMPUTED: Mapping[str, tuple[str, ...]] = {
    "get_vision_cu_seqlens": ("cu_seqlens",),
    "get_vision_position_ids": ("position_ids",),
    "get_vision_window_index": ("window_index", "cu_window_seqlens"),
    "get_vision_interpolation_indices_and_weights": ("interp_indices", "interp_weights"),
    "get_vision_pixel_shuffle_index": ("pixel_shuffle_index",),
    "get_vision_frame_index": ("frame_index",),
    "get_vision_temporal_merge_index": ("temporal_merge_index",),
}
