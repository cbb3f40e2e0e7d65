"""A default config becomes a ladder of tiny ones, by what its fields are called and hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    token_ids,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far sizes go down.

    Attributes:
        width: What every width becomes, for 4 heads; None to divide instead.
        divisor: What widths are divided by where they are not all alike.
        layers: Least number of layers; there is one of each kind in any case.
        heads: Whether heads become narrower too.
        images: Whether images, patches and windows get small too.
        fill: Whether to fill in the sizes that a default config leaves None.
    """

    width: int | None
    divisor: int = 4
    layers: int = 2
    heads: bool = True
    images: bool = True
    fill: bool = False


LADDER: tuple[Scale, ...] = (
    Scale(width=64),
    Scale(width=64, fill=True),
    Scale(width=None, divisor=16),
    Scale(width=None),
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
    "dense": 1,
    "period": 2,
    "offset": 1,
    "queries": 12,
}
IMAGE_CAPS = {"window": 8, "patch": 8, "image": 64, "pooled": 16}
# What stands in for a size that is None.
FILLS = {
    **CAPS,
    "width": 64,
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "head_dim": 16,
    "length": 8,
}
# How often a block is repeated, stage by stage.
DEPTH_LISTS = frozenset(
    {
        "attention_types",
        "block_repeats",
        "depths",
        "num_block_repeats",
        "stage_num_blocks",
        "stage_numb_of_layers",
    }
)


def shrink(config: PretrainedConfig, scale: Scale) -> PretrainedConfig:
    """One rung of the ladder: the same class with other sizes, as deep as configs are nested.

    Raises:
        Exception: Whatever the config's class has against the new sizes.
    """
    taken = {value for value in token_ids(config) if 0 <= value < VOCABULARY}
    free = [number for number in reversed(range(VOCABULARY)) if number not in taken]
    large = sorted({value for value in token_ids(config) if value >= VOCABULARY}, reverse=True)
    return _Shrinking(scale, dict(zip(large, free, strict=False))).of(config)


@dataclass(frozen=True, slots=True)
class _Shrinking:
    """What all parts of a config have in common: the scale, and where special tokens went."""

    scale: Scale
    tokens: dict[int, int]

    def of(self, config: PretrainedConfig) -> PretrainedConfig:
        if "timm" in config.model_type:
            return _resnet(config)
        values = own_values(config)
        overrides = {
            int(layer): changes
            for layer, changes in config.to_dict().get("per_layer_config", {}).items()
        }
        picks = pick_layers(values, overrides, self.scale.layers)
        divide = is_staged(values) or self.scale.width is None
        fields = _Fields(self, values, picks, divide)
        made = fields.changed(values)
        if self.scale.fill:
            left_out = numbers_left_out(config)
            made |= {name: FILLS[kind] for name, kind in left_out.items() if kind in FILLS}
        if overrides:
            made["per_layer_config"] = {
                layer: _Fields(self, values | overrides[old], picks, divide).changed(overrides[old])
                for layer, old in enumerate(picks.kept)
                if old in overrides
            }
        build: Any = type(config)
        shrunk: PretrainedConfig = build(**made)
        large = {
            name: small
            for name, value in own_values(config, derived=True).items()
            if own_values(shrunk, derived=True).get(name) == value
            and (small := fields.value(name, value)) != value
        }
        return build(**made, **large) if large else shrunk


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
        elif isinstance(value, (list, tuple)):
            whole = name not in self.picks.per_layer
            made = self.items(
                name, kind, value if whole else [value[layer] for layer in self.picks.kept]
            )
        elif isinstance(value, int) and not isinstance(value, bool):
            made = self.number(kind, value)
        return made

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

    def items(self, name: str, kind: str, value: list[Any] | tuple[Any, ...]) -> list[Any]:
        made: list[Any] = []
        for item in value:
            if isinstance(item, (list, tuple)):
                made.append(self.items(name, kind, item))
            elif not isinstance(item, int) or isinstance(item, bool) or "heads" in kind:
                made.append(item)
            else:
                made.append(min(item, 1) if name in DEPTH_LISTS else self.number(kind, item))
        return made

    def number(self, kind: str, value: int) -> int:
        scale, picks = self.whole.scale, self.picks
        if kind in IMAGE_CAPS and scale.images:
            value = min(value, IMAGE_CAPS[kind])
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
        elif kind == "layers" and value == picks.old:
            value = len(picks.kept)
        elif kind == "layers" and value not in picks.lengths:
            value = min(value, scale.layers)
        return value

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
