"""Rules for images that come as patches: all in one long row, or padded to a row per image."""

from __future__ import annotations

from selector.cases import PATCHES, STRIP, TOTAL_PATCHES, InputSpec
from selector.config_lookup import VISION, find_int
from selector.facts import Facts
from selector.spec_kinds import Axes, floats

CHANNEL_NAMES = ("num_channels", "in_channels", "in_chans", "num_input_channels")
FRAME_NAMES = ("temporal_patch_size", "tubelet_size", "video_patch_size")
MERGE_NAMES = (
    "spatial_merge_size",
    "merge_kernel_size",
    "merge_size",
    "pooling_kernel_size",
    "downsample_factor",
)
# One row per image: frames, rows and columns of its patches.
PACKED_GRIDS = ("image_grid_thw", "grid_thw")
# One row per image: rows and columns of its patches.
PADDED_GRIDS = ("spatial_shapes",)
# The same, where the patches of all images stand side by side.
STRIP_GRIDS = ("target_sizes",)
GRIDS = (*PACKED_GRIDS, *PADDED_GRIDS, *STRIP_GRIDS)
PLACES = ("pixel_position_ids", "image_position_ids")


def images_axis(facts: Facts) -> str:
    """Name of the axis of images: as many as rows of text where there is text."""
    return "batch_size" if "input_ids" in facts.parameters else "num_images"


def patches(name: str, facts: Facts) -> list[InputSpec]:
    """Pixels or embeddings of patches, where forward takes the grids or places of patches."""
    channels = find_int(facts.config, *CHANNEL_NAMES, near=VISION) or 3
    side = facts.patch_size
    frames = find_int(facts.config, *FRAME_NAMES, near=VISION) or 1
    flat = channels * side * side
    packed: list[Axes] = [
        (TOTAL_PATCHES, flat * frames),
        (TOTAL_PATCHES, flat),
        (TOTAL_PATCHES, channels, side, side),
        (1, TOTAL_PATCHES, channels, side, side),
    ]
    padded: list[Axes] = [(images_axis(facts), PATCHES, flat)]
    if any(grid in facts.parameters for grid in STRIP_GRIDS):
        shapes: list[Axes] = [(1, channels, side, STRIP)]
    elif any(grid in facts.parameters for grid in PACKED_GRIDS):
        shapes = packed + padded
    elif any(grid in facts.parameters for grid in (*PADDED_GRIDS, *PLACES)):
        shapes = padded + packed
    else:
        shapes = []
    return floats(name, facts, *shapes)


def grids(name: str, facts: Facts) -> list[InputSpec]:
    """How many patches every image has along each side."""
    columns = 3 if name in PACKED_GRIDS else 2
    merge = patch_block(facts)
    steps = dict.fromkeys((merge, 2 * merge, 4 * merge))
    return [
        InputSpec(
            name=name,
            axes=(images_axis(facts), columns),
            dtype="int64",
            fill="grid",
            low=step,
            high=facts.patch_size if name in STRIP_GRIDS else 1,
        )
        for step in steps
    ]


def merge_sizes(name: str, facts: Facts) -> list[InputSpec]:
    """How many patches along each side of an image become one."""
    axes = (images_axis(facts),)
    return [InputSpec(name=name, axes=axes, dtype="int64", fill="constant", low=patch_block(facts))]


def places(name: str, facts: Facts) -> list[InputSpec]:
    """Column and row of every patch."""
    return [
        InputSpec(
            name=name,
            axes=(images_axis(facts), PATCHES, 2),
            dtype="int64",
            fill="places",
            low=patch_block(facts),
        )
    ]


def masks(name: str, facts: Facts) -> list[InputSpec]:
    """Which patches, or images of a row, are real; all, as placeholders stand for each."""
    if any(grid in facts.parameters for grid in PADDED_GRIDS):
        axes, dtypes = (images_axis(facts), PATCHES), ["int64"]
    elif name in facts.docs:
        return []
    else:
        axes, dtypes = ("batch_size", "num_images"), ["bool", "int64"]
    return [
        InputSpec(name=name, axes=axes, dtype=dtype, fill="constant", low=1) for dtype in dtypes
    ]


def patch_block(facts: Facts) -> int:
    """Patches along each side that the model makes one of, first in windows, then at the end."""
    window = find_int(facts.config, "window_kernel_size", near=VISION) or 1
    return window * (find_int(facts.config, *MERGE_NAMES, near=VISION) or 1)
