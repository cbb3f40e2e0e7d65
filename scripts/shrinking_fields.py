"""What a field of a config holds, by its name and value, and which layers of it stay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

from transformers import PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

# What a whole number is, by the name of its field; the first pattern that is found counts.
KINDS: tuple[tuple[str, str], ...] = (
    ("token", r"token_(id|index)s?$|tokens_ids?$|^(bos|eos|pad|unk|mask|sep|cls)_(index|id)$"),
    ("token", r"(^|_)(start|end|newline|patch|bos|eos|pad|stream_bos|stream_eos)_(id|index)$"),
    ("scale", r"^depth_coefficient$"),
    ("repeats", r"^depths$|_repeats$|^stage_num|^blocks_per_stage$|^attention_types$"),
    ("offset", r"layer_offset$"),
    ("width", r"hidden_channels$"),
    ("keep", r"kernel|stride|padding|dilation|merge_size|rates?$|factor|(^|_)ratio|offset"),
    # Windows of sounds; a stem's channels, which the model's first width follows.
    ("keep", r"^n_window|^subsampling_conv_channels$"),
    ("pixels", r"^visual_prompt_size$|grid_pinpoints$"),
    ("chunk", r"^(mamba_)?chunk_size$"),
    ("keep", r"type_vocab|^num_channels$|ignore|cost|coefficient|loss|label|mask_(time|feature)"),
    (
        "keep",
        r"^num_windows|^model_in_dim$|buckets|chunk_size$|n_bins|temperature|levels?$|points?$|states$",
    ),
    ("vocabulary", r"vocab|^codebook_size$|^num_embeddings$"),
    ("index", r"(layer|layer_id|layer_idx|layer_index|_idx|_index|_indices|hook_ids)$"),
    ("period", r"(period|interval|frequency|pattern|every\w*|sparse_step|layer_step)$"),
    ("dense", r"first_k_dense|num_dense_layers|max_window_layers|num_kv_shared|full_attention_l"),
    ("layers", r"layers$|^(\w+_)?n_layer$|^depth$|resampler_depth$|^num_(\w+_)?blocks$|layers_per"),
    ("positions", r"max_(\w+_)?position|n_positions|max_seq_len|n_ctx$|_positions$"),
    ("positions", r"^(max|context)_length$"),
    ("length", r"^prediction_length$"),
    ("patch", r"(patch|tubelet)_size$"),
    ("grid", r"feat(ure)?_sizes$"),
    ("frames", r"^num_frames$|^frames_per_clip$"),
    ("image", r"image_size$|^input_size$|img_size$|resolution$"),
    ("pooled", r"tokens_per_image$"),
    ("tile", r"window_sizes?$"),
    ("window", r"window|attn_chunk_length$|^local_attention$|block_size$"),
    ("experts", r"experts$|expert_num$"),
    ("positions_kept", r"index_topk$"),
    ("topk", r"experts_per_tok|num_experts_per|moe_k$|moe_topk$|topk_blocks$|top_?k$"),
    ("few", r"n_?groups$"),
    ("group", r"^n_group$|^topk_group$|num_expert_group$"),
    ("kv_heads", r"(num_key_value|num_kv|kv)_(\w+_)?heads$"),
    ("heads", r"heads$|n_head$"),
    ("head_dim", r"rotary_dim$|head_dim$|^d_kv$|dim_head$|^d_head$|kv_channels$|head_size$"),
    ("half_width", r"num_pos_feats$"),
    ("rank", r"rank$"),
    ("width", r"^d_latents$|channel_list$"),
    ("queries", r"num_queries$|num_(\w+_)?proposals$|latents$|query_tokens$|denoising$"),
    ("width", r"size|dims?(_\w+)?$|width$|channels?$|units$|planes$|filters$|hidden|inner$"),
    ("width", r"sample_groups$|embd$|d_model$|d_ff$|dff$|ffn|proj|feedforward|d_ssm$"),
)
# How many layers there are, the field that lists of layers go by first.
DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "depth",
    "layers",
    "encoder_layers",
    "num_decoder_layers",
)
# The stages that a backbone returns: 0 is its stem, others may be layers, counted from 1.
STAGES = "out_indices"
_ABSENT = object()
# Lists of at most so many layers are kept whole: they name the stages of one model.
FEW = 5


def kind_of(name: str) -> str:
    """What a field of that name holds, one of `KINDS`, or `keep`."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "keep")


def numbers_left_out(config: PretrainedConfig) -> dict[str, str]:
    """Sizes that a default config leaves None though it makes no model so: name and kind.

    Some are switches, so they are filled in only where nothing else helped.
    """
    return {
        item.name: kind_of(item.name)
        for item in fields(config)
        if item.init and _given(config, item) is None and _is_number(item)
    }


def _is_number(item: Field[Any]) -> bool:
    return "int" in re.sub(r"(dict|list|tuple)\[[^]]*\]", "", str(item.type))


def takes_sections(config: PretrainedConfig) -> bool:
    """Whether its rotary embedding wants a `mrope_section` that the default config leaves out."""
    ignored = getattr(type(config), "ignore_keys_at_rope_validation", None) or ()
    return "mrope_section" in ignored and "mrope_section" not in str(config.rope_parameters)


def own_values(config: PretrainedConfig, *, derived: bool = False) -> dict[str, Any]:
    """The fields that its class cannot work out by itself, sub-configs and lists included.

    Args:
        config: Of any class.
        derived: Those that it put in the place of None instead.
    """
    backbone = isinstance(config, BackboneConfigMixin)
    inherited = {item.name for item in fields(PretrainedConfig)} - {"is_encoder_decoder"}
    if backbone:
        inherited |= {"_out_indices", "_out_features"}
    given = {item: _given(config, item) for item in fields(config) if item.name not in inherited}
    values = {
        item.name: value
        for item, value in given.items()
        if item.init and value is not _ABSENT and _is_derived(item, value) is derived
    }
    if backbone and not derived:
        values[STAGES] = list(config.out_indices)
    return values


def _given(config: PretrainedConfig, item: Field[Any]) -> Any:
    # Not by attribute: what differs from layer to layer cannot be read so.
    name = config.attribute_map.get(item.name, item.name)
    return config.__dict__.get(name, _ABSENT)


def _is_derived(item: Field[Any], value: Any) -> bool:
    """Whether the class put a value in the place of None, or of a word such as "auto"."""
    if isinstance(value, (PretrainedConfig, dict)):
        return False
    return item.default is None or (isinstance(item.default, str) and not isinstance(value, str))


def token_ids(config: PretrainedConfig) -> Iterator[int]:
    """Special tokens of a config and of all its parts."""
    return _numbers(config, "token")


def sizes(config: PretrainedConfig, kind: str) -> Iterator[int]:
    """The sizes of a kind that a config and all its parts hold."""
    return _numbers(config, kind)


def _numbers(config: PretrainedConfig, kind: str) -> Iterator[int]:
    for name, value in own_values(config).items():
        if isinstance(value, PretrainedConfig):
            yield from _numbers(value, kind)
        elif kind_of(name) == kind:
            items = value if isinstance(value, (list, tuple)) else [value]
            yield from (item for item in items if isinstance(item, int))


def is_staged(values: Mapping[str, Any]) -> bool:
    """Whether widths differ from stage to stage, so that they must keep their ratios."""
    return any(
        (kind_of(name) in {"width", "heads"} and len(set(value)) > 1)
        # Sounds have twice the channels at each step.
        or name.endswith("sampling_ratios")
        for name, value in values.items()
        if isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """The layers that stay, by their old number.

    Attributes:
        old: How many there were; 0 where the config has no layers of its own.
        kept: The old numbers of those that stay.
        per_layer: Names of lists with one entry for each layer.
        indices: Names of lists of layers.
        lengths: Of all lists, as some numbers count the entries of one.
    """

    old: int
    kept: tuple[int, ...]
    per_layer: frozenset[str]
    indices: frozenset[str]
    lengths: frozenset[int]

    def moved(self, layers: Sequence[int]) -> list[int]:
        """New numbers of old layers; of those that went, the nearest before."""
        if not self.old:
            return list(layers)
        new = []
        for layer in layers:
            if layer < 0:
                new.append(max(layer, -len(self.kept)))
            elif layer >= self.old:
                new.append(len(self.kept))
            else:
                new.append(max(sum(kept <= layer for kept in self.kept) - 1, 0))
        return list(dict.fromkeys(new))


def pick_layers(
    values: Mapping[str, Any],
    overrides: Mapping[int, Mapping[str, Any]],
    *,
    fewest: int,
    each: int = 1,
) -> Picks:
    """A layer or more of each kind.

    Args:
        values: The config's fields. Layers are of a kind where all lists say the same of them.
        overrides: What the config says of single layers.
        fewest: Layers in all.
        each: Layers of a kind, where there are as many.
    """
    lists = {name: value for name, value in values.items() if isinstance(value, (list, tuple))}
    depths = [value for name in DEPTHS if isinstance(value := values.get(name), int)]
    typed = [len(value) for name, value in lists.items() if name == "layer_types"]
    old = (*typed, *depths, 0)[0]
    indices = {name for name, value in lists.items() if _are_layers(name, value, old)}
    per_layer = {
        name
        for name, value in lists.items()
        if name not in indices and old > 1 and len(value) == old
    }
    if per_layer and old < FEW:
        kept = set(range(old))
    else:
        kept = {
            layer % old
            for name in indices
            if len(lists[name]) <= FEW
            for layer in lists[name]
            if layer < old
        }
        kept |= {stage - 1 for stage in lists.get(STAGES, ()) if 0 < stage <= old}
        kinds: dict[object, list[int]] = {}
        for layer in range(old):
            kind = (
                *(repr(lists[name][layer]) for name in sorted(per_layer)),
                *(layer in lists[name] for name in sorted(indices)),
                repr(overrides.get(layer)),
            )
            kinds.setdefault(kind, []).append(layer)
        kept |= {layer for alike in kinds.values() for layer in alike[:each]}
        spare = [layer for layer in range(old) if layer not in kept]
        kept |= set(spare[: max(fewest - len(kept), 0)])
    return Picks(
        old=old,
        kept=tuple(sorted(kept)),
        per_layer=frozenset(per_layer),
        indices=frozenset(indices),
        lengths=frozenset(map(len, lists.values())),
    )


def _are_layers(name: str, value: Sequence[Any], old: int) -> bool:
    """Whether a list is one of layers; a list of flags, one for each layer, is not."""
    named = name != STAGES and re.search(r"ind(ex|ic|x)|idx|layers|layer_ids", name)
    layers = all(isinstance(item, int) and -old <= item <= old for item in value)
    return bool(named and value and old and layers) and (len(value) < old or max(value) > 1)
