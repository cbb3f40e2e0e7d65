"""A default config becomes a ladder of tiny ones, by what its fields are called and hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from scripts.shrinking_fields import Picks, is_staged, kind_of, own_values, pick_layers, token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far sizes go down.

    Attributes:
        width: What every width becomes, for 4 heads of a fourth; None to divide instead.
        divisor: What widths are divided by where they are not all alike.
        layers: Least number of layers; there is one of each kind in any case.
        images: Whether images, patches and windows get small too.
    """

    width: int | None
    divisor: int
    layers: int = 2
    images: bool = True


LADDER: tuple[Scale, ...] = (
    Scale(width=64, divisor=4),
    Scale(width=None, divisor=16),
    Scale(width=None, divisor=4),
    Scale(width=64, divisor=4, images=False),
    Scale(width=None, divisor=4, images=False),
    Scale(width=None, divisor=2, images=False),
    Scale(width=None, divisor=1, images=False),
)

VOCABULARY = 256
# Smaller ones are no widths: channels of an image, states, groups.
SMALLEST_WIDTH, SMALLEST_STAGE = 32, 16
CAPS = {
    "vocabulary": VOCABULARY,
    "positions": 256,
    "experts": 4,
    "topk": 2,
    "group": 1,
    "dense": 1,
    "period": 2,
    "queries": 12,
}
IMAGE_CAPS = {"window": 8, "patch": 8, "image": 64}
HEADS = {"heads": 4, "kv_heads": 2}
# How often a block is repeated, stage by stage.
DEPTH_LISTS = frozenset(
    {"depths", "block_repeats", "stage_numb_of_layers", "stage_num_blocks", "num_block_repeats"}
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
        fields = _Fields(self, is_staged(values) or self.scale.width is None, picks)
        made = {name: fields.value(name, value) for name, value in values.items()}
        if overrides:
            made["per_layer_config"] = {
                layer: {name: fields.value(name, item) for name, item in overrides[old].items()}
                for layer, old in enumerate(picks.kept)
                if old in overrides
            }
        build: Any = type(config)
        shrunk: PretrainedConfig = build(**made)
        return shrunk


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of one config, not of its parts."""

    whole: _Shrinking
    divide: bool
    picks: Picks

    def value(self, name: str, value: Any) -> Any:
        kind = kind_of(name)
        made: Any = value
        if isinstance(value, PretrainedConfig):
            made = self.whole.of(value)
        elif isinstance(value, dict):
            counts = kind == "layers"
            made = {key: self.number(kind, item) if counts else item for key, item in value.items()}
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

    def items(self, name: str, kind: str, value: list[Any] | tuple[Any, ...]) -> list[Any]:
        made: list[Any] = []
        for item in value:
            if isinstance(item, (list, tuple)):
                made.append(self.items(name, kind, item))
            elif not isinstance(item, int) or isinstance(item, bool) or kind in HEADS:
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
        elif kind in HEADS and not self.divide:
            value = min(value, HEADS[kind])
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

    def width(self, kind: str, value: int) -> int:
        scale = self.whole.scale
        if self.divide or scale.width is None:
            return value // scale.divisor if value >= SMALLEST_STAGE else value
        if value < SMALLEST_WIDTH:
            return value
        return scale.width if kind == "width" else scale.width // 4


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
