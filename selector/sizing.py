"""Sizes of named axes: at least 2, no two alike, and a second one for every axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from selector.cases import PATCHES, STRIP, TOTAL_PATCHES, InputSpec
from selector.config_lookup import TEXT, find_int
from selector.facts import FREE_HEIGHT, FREE_WIDTH, Facts
from selector.patch_rules import patch_block

USUAL: dict[str, tuple[int, int]] = {
    "batch_size": (2, 3),
    "image_batch_size": (4, 5),
    "sequence_length": (11, 17),
    "decoder_sequence_length": (6, 9),
    "feature_length": (40, 56),
    "num_frames": (4, 8),
    "point_batch_size": (3, 4),
    "num_points": (5, 7),
    "num_boxes": (7, 10),
    "num_images": (3, 4),
    "num_choices": (3, 4),
}
FIRST_FREE = 7
STEPS_OF_AUDIO = (12, 17)


def choose(
    specs: Sequence[InputSpec],
    facts: Facts,
    *,
    imposed: Mapping[str, int],
    given: Mapping[str, int],
) -> tuple[dict[str, int], dict[str, int]]:
    """The example's sizes and hopes for second ones, for every named axis of the specs.

    Args:
        specs: The inputs.
        facts: Where image, patch and audio sizes come from.
        imposed: Sizes that the config names; the axes may still turn out to vary.
        given: Sizes of the user's own tensors, which come before everything else.
    """
    names = axis_names(specs)
    # Where a length is as large as a width, a model takes them in either order.
    widths = {
        axis for spec in specs for axis in spec.axes if isinstance(axis, int) and axis >= FIRST_FREE
    }
    preset = {**imposed, **given}
    sizes: dict[str, int] = {}
    for name in names:
        wanted = preset.get(name) or _usual(name, facts)[0]
        sizes[name] = wanted if name in preset else _distinct(wanted, [*sizes.values(), *widths])
    if "height" in sizes and "width" in sizes and not {"height", "width"} & preset.keys():
        sizes["height"], sizes["width"] = _free_image(facts)
    return sizes, second_sizes(sizes, facts)


def axis_names(specs: Iterable[InputSpec]) -> list[str]:
    """Every named axis once, in order of appearance."""
    found = (axis for spec in specs for axis in spec.axes if isinstance(axis, str))
    return list(dict.fromkeys(found))


def second_sizes(sizes: Mapping[str, int], facts: Facts) -> dict[str, int]:
    """Another size for every axis, divisible by what the first one is divisible by."""
    others: dict[str, int] = {}
    for name, size in sizes.items():
        usual = _usual(name, facts)
        wanted = usual[1] if usual[0] == size else _grown(name, size)
        others[name] = _distinct(wanted, [*others.values(), size])
    if "height" in sizes and "width" in sizes:
        others["height"], others["width"] = _larger_image(sizes["height"], sizes["width"])
    return others


def _usual(name: str, facts: Facts) -> tuple[int, int]:
    if name == "audio_length":
        first, second = (steps * facts.hop for steps in STEPS_OF_AUDIO)
        return first, second
    if name in (PATCHES, TOTAL_PATCHES, STRIP):
        # Divides among two, three or four images, into grids of blocks that are no squares.
        block = patch_block(facts) ** 2 * (facts.patch_size if name == STRIP else 1)
        return (6 * block, 12 * block) if name == PATCHES else (24 * block, 48 * block)
    first, second = USUAL.get(name) or USUAL.get(_stem(name)) or (FIRST_FREE, FIRST_FREE + 6)
    longest = find_int(facts.config, "max_position_embeddings", near=TEXT) or second
    if name.endswith("sequence_length") and 4 <= longest < second:
        return longest // 2, longest - 1
    return first, second


def _stem(name: str) -> str:
    return "sequence_length" if name.endswith("sequence_length") else name


def _grown(name: str, size: int) -> int:
    return size + 1 if name.endswith("batch_size") else 2 * size


def _distinct(size: int, taken: Iterable[int]) -> int:
    used = set(taken)
    while size in used or size < 2:
        size += 1
    return size


def _free_image(facts: Facts) -> tuple[int, int]:
    if facts.image_size is None:
        return FREE_HEIGHT, FREE_WIDTH
    height, width = facts.image_size
    if height != width:
        return height, width
    half = math.ceil(height / 2 / facts.patch_size) * facts.patch_size
    return height, height + half


def _larger_image(height: int, width: int) -> tuple[int, int]:
    if height == width:
        step = height // 2 if height % 2 == 0 else height
        return height + step, width + 2 * step
    step = math.gcd(height, width)
    return height + step, width + step
