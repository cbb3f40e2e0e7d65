"""A default config becomes a ladder of tiny ones, by what its fields are called and hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from scripts.shrinking_fields import (
    STAGES,
    Picks,
    is_staged,
    kind_of,
    numbers_left_out,
    own_values,
    pick_layers,
    sizes,
    takes_sections,
    token_ids,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far sizes go down.

    Attributes:
        width: What every width becomes, for 4 heads; None to divide instead.
        divisor: What widths are divided by where they are not all alike.
        layers: Least number of layers.
        each: Layers of each kind, where there are as many.
        heads: Whether heads become narrower too.
        images: Whether images, patches and windows get small too.
        fill: Whether to fill in the sizes that a default config leaves None.
    """

    width: int | None
    divisor: int = 4
    layers: int = 2
    each: int = 1
    heads: bool = True
    images: bool = True
    fill: bool = False


LADDER: tuple[Scale, ...] = (
    Scale(width=64),
    Scale(width=64, fill=True),
    Scale(width=None, divisor=16),
    Scale(width=None),
    Scale(width=None, divisor=2),
    Scale(width=64, divisor=1, each=2),
    Scale(width=512, heads=False),
    Scale(width=64, images=False),
    Scale(width=None, images=False),
    Scale(width=None, divisor=2, layers=4, images=False),
    Scale(width=None, divisor=1, layers=4, images=False),
)

VOCABULARY = 256
HEADS, KV_HEADS = 4, 2
# Smaller ones are no widths: channels of an image, states, groups.
SMALLEST_WIDTH, SMALLEST_STAGE = 32, 16
CAPS = {
    "vocabulary": VOCABULARY,
    "positions": 256,
    "experts": 4,
    "topk": 2,
    "positions_kept": 16,
    "group": 1,
    "few": 2,
    "dense": 1,
    "period": 2,
    "offset": 1,
    "queries": 12,
    # Sequences are padded to whole chunks.
    "chunk": 32,
}
IMAGE_CAPS = {"window": 8, "patch": 8, "image": 64, "pooled": 16, "frames": 8}
# A window of an image is measured in patches, a large one in pixels.
TILE, PIXELS = 2, 32
IMAGE_KINDS = {*IMAGE_CAPS, "tile", "grid", "pixels"}
# What stands in for a size that is None.
FILLS = {
    **CAPS,
    "width": 64,
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "head_dim": 16,
    "length": 8,
    "window": IMAGE_CAPS["window"],
}


def shrink(config: PretrainedConfig, scale: Scale) -> PretrainedConfig:
    """One rung of the ladder: the same class with other sizes, as deep as configs are nested.

    Raises:
        Exception: Whatever the config's class has against the new sizes.
    """
    taken = {value for value in token_ids(config) if 0 <= value < VOCABULARY}
    free = [number for number in reversed(range(VOCABULARY)) if number not in taken]
    large = sorted({value for value in token_ids(config) if value >= VOCABULARY}, reverse=True)
    shrinking = _Shrinking(
        scale=scale,
        tokens=dict(zip(large, free, strict=False)),
        # The lowest first, as some count positions from the one for padding.
        spare=reversed(free[len(large) :]),
        images=frozenset(sizes(config, "image")) or frozenset({IMAGE_CAPS["image"]}),
        patch=max(sizes(config, "patch"), default=1),
    )
    return shrinking.of(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shrinking:
    """What all parts of a config have in common.

    Attributes:
        scale: The rung.
        tokens: Where the special tokens went that the small vocabulary does not have.
        spare: Ids that mean nothing yet.
        images: The sides of its images.
        patch: The side of the largest patch.
    """

    scale: Scale
    tokens: dict[int, int]
    spare: Iterator[int]
    images: frozenset[int]
    patch: int

    @property
    def image(self) -> int:
        """The side of the largest image."""
        return max(self.images)

    def of(self, config: PretrainedConfig) -> PretrainedConfig:
        if "timm" in config.model_type:
            return _resnet(config)
        values = own_values(config)
        derived = own_values(config, derived=True)
        overrides = {
            int(layer): changes
            for layer, changes in config.to_dict().get("per_layer_config", {}).items()
        }
        every = values | derived
        picks = pick_layers(every, overrides, fewest=self.scale.layers, each=self.scale.each)
        divide = is_staged(every) or self.scale.width is None
        fields = _Fields(self, every, picks, divide)
        names = (
            picks.per_layer
            | picks.indices
            | {name for name in derived if kind_of(name) == "repeats"}
        )
        by_layer = {name: every[name] for name in names}
        made = fields.changed(values | by_layer)
        if self.scale.fill:
            left_out = numbers_left_out(config)
            made |= {name: FILLS[kind] for name, kind in left_out.items() if kind in FILLS}
            made |= {name: next(self.spare) for name, kind in left_out.items() if kind == "token"}
            if getattr(config, "layer_types", ()) is None:
                made["layer_types"] = ["full_attention"] * len(picks.kept)
        if overrides:
            made["per_layer_config"] = {
                layer: _Fields(self, every | overrides[old], picks, divide).changed(overrides[old])
                for layer, old in enumerate(picks.kept)
                if old in overrides
            }
        build: Any = type(config)
        shrunk: PretrainedConfig = build(**made)
        if self.scale.fill and takes_sections(config):
            made["rope_parameters"] = _with_sections(shrunk)
        large = {
            name: small
            for name, value in derived.items()
            if own_values(shrunk, derived=True).get(name) == value
            and (small := fields.value(name, value)) != value
        }
        whole: PretrainedConfig = build(**(made | large))
        return whole


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of one config, not of its parts."""

    whole: _Shrinking
    values: Mapping[str, Any]
    picks: Picks
    divide: bool

    def value(self, name: str, value: Any) -> Any:
        kind = kind_of(name)
        made: Any = value
        if isinstance(value, PretrainedConfig):
            made = self.whole.of(value)
        elif isinstance(value, dict):
            made = {key: self.entry(kind, key, item) for key, item in value.items()}
        elif name == STAGES:
            made = self.stages(value)
        elif isinstance(value, (list, tuple)) and name in self.picks.indices:
            made = self.picks.moved(value)
        elif isinstance(value, (list, tuple)) and kind == "index" and not self.picks.old:
            made = self.of_parts(value)
        elif isinstance(value, (list, tuple)):
            whole = name not in self.picks.per_layer
            made = self.items(kind, value if whole else [value[layer] for layer in self.picks.kept])
        elif isinstance(value, int) and not isinstance(value, bool):
            made = self.number(kind, value)
        elif isinstance(value, float) and kind == "scale":
            made = min(value, 1.0)
        return made

    def of_parts(self, layers: Sequence[int]) -> list[int]:
        """Layers of a part of the model: as many different ones as it keeps, in their order."""
        order = sorted(set(layers))
        last = self.whole.scale.layers - 1
        return [min(order.index(layer), last) if layer > last else layer for layer in layers]

    def stages(self, value: Sequence[int]) -> list[int]:
        """Where stages are layers, they are counted from 1."""
        if not self.picks.old:
            return list(value)
        return [self.picks.moved([stage - 1])[0] + 1 if stage > 0 else stage for stage in value]

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Several of the fields."""
        return {name: self.value(name, value) for name, value in values.items()}

    def entry(self, kind: str, key: str, value: Any) -> Any:
        """An item of a field that is a dict."""
        if isinstance(value, dict):
            return {inner: self.entry(kind, inner, item) for inner, item in value.items()}
        if key == "mrope_section":
            return self.sections(value)
        return self.number(kind, value) if kind == "layers" else value

    def sections(self, sizes: Sequence[int]) -> list[int]:
        """Parts of half a head, the rest going to the last."""
        heads = self.values.get("num_attention_heads")
        old = self.values.get("head_dim") or self.values.get("hidden_size", 0) // (heads or 1)
        new = self.width("head_dim", old) if old else 0
        if not new or new == old:
            return list(sizes)
        *first, _ = (size * new // old for size in sizes)
        return [*first, sum(sizes) * new // old - sum(first)]

    def items(self, kind: str, value: list[Any] | tuple[Any, ...]) -> list[Any]:
        made: list[Any] = []
        for item in value:
            if isinstance(item, (list, tuple)):
                made.append(self.items(kind, item))
            elif not isinstance(item, int) or isinstance(item, bool) or "heads" in kind:
                made.append(item)
            else:
                made.append(min(item, 1) if kind == "repeats" else self.number(kind, item))
        return made

    def number(self, kind: str, value: int) -> int:
        scale, picks = self.whole.scale, self.picks
        if kind in IMAGE_KINDS:
            value = self.of_image(kind, value) if scale.images else value
        elif kind in CAPS:
            value = min(value, CAPS[kind])
        elif kind in {"heads", "kv_heads"} and not self.divide:
            value = self.heads(kind, value)
        elif kind == "half_width":
            value = self.width("width", 2 * value) // 2
        elif kind in {"width", "head_dim", "rank"}:
            value = self.width(kind, value)
        elif kind == "token":
            value = self.whole.tokens.get(value, value)
        elif kind == "index":
            value = picks.moved([value])[0]
        elif kind == "layers":
            value = self.layers(value)
        return value

    def of_image(self, kind: str, value: int) -> int:
        if kind == "tile":
            return min(value, TILE if value < PIXELS else PIXELS)
        if kind == "patch" and value in self.whole.images:
            # It becomes an image of its own.
            return min(value, IMAGE_CAPS["image"])
        if kind == "patch" and value > IMAGE_CAPS["patch"]:
            # A power of two, so that it divides the image; fixed stems come down to 16 as well.
            return 1 << min(value, 2 * IMAGE_CAPS["patch"]).bit_length() - 1
        if kind == "pixels":
            return max(value * IMAGE_CAPS["image"] // self.whole.image, 1)
        if kind == "grid":
            # Counted in patches, or in parts of one.
            whole = self.whole
            new = IMAGE_CAPS["image"] // self.of_image("patch", whole.patch)
            return max(value * new // (whole.image // whole.patch), 1)
        return min(value, IMAGE_CAPS[kind])

    def layers(self, value: int) -> int:
        """As many as were picked; a number that counts the entries of a list stays."""
        if value == self.picks.old:
            return len(self.picks.kept)
        return value if value in self.picks.lengths else min(value, self.whole.scale.layers)

    def heads(self, kind: str, value: int) -> int:
        """As many keys as queries where they were as many."""
        alike = kind == "heads" or value == self.values.get("num_attention_heads")
        return min(value, HEADS if alike else KV_HEADS)

    def width(self, kind: str, value: int) -> int:
        scale = self.whole.scale
        if kind == "head_dim" and not scale.heads:
            return value
        if self.divide or scale.width is None:
            return value // scale.divisor if value >= SMALLEST_STAGE else value
        if value < SMALLEST_WIDTH:
            return value
        return scale.width if kind == "width" else scale.width // HEADS


def _with_sections(config: Any) -> dict[str, Any]:
    """Its rotary embedding with parts for time, height and width, half a head in all."""
    rope = dict(config.rope_parameters or {})
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half = int(head * rope.get("partial_rotary_factor", 1.0)) // 2
    each = 3 * half // 8
    sections = {"mrope_section": [each, each, half - 2 * each]}
    if rope:
        return {**rope, **sections}
    default = {"rope_type": "default", "rope_theta": 10000.0, **sections}
    return {kind: dict(default) for kind in config.layer_types}


def _resnet(config: PretrainedConfig) -> PretrainedConfig:
    """A backbone of transformers' own in place of one that takes timm."""
    build: Any = CONFIG_MAPPING["resnet"]
    indices = getattr(config, "out_indices", None) or [4]
    resnet: PretrainedConfig = build(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        out_indices=list(indices),
    )
    return resnet
