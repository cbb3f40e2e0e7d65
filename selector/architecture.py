"""What kind of model it is: family, modalities and sizes, from its config and module tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Which kind of data an input's name says it holds, by a word in the name.
MODALITY_WORDS = {
    "input_ids": "text",
    "inputs_embeds": "text",
    "token_type_ids": "text",
    "pixel_values_videos": "video",
    "pixel": "vision",
    "image": "vision",
    "input_features": "audio",
    "input_values": "audio",
    "audio": "audio",
    "speech": "audio",
    "waveform": "audio",
    "bbox": "layout",
    "past_values": "time-series",
}
# Names under which configs keep a sub-config of each modality.
PART_WORDS = {"text": "text", "vision": "vision", "audio": "audio"}
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "depths")
DECODER_DEPTHS = ("decoder_layers", "num_decoder_layers")
WIDTHS = ("hidden_size", "d_model", "n_embd", "hidden_sizes", "embed_dim", "d_latents")
IDENTITY_FREE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What `describe` found; the fields are those of `ModelFeatures`."""

    family: str
    modalities: tuple[str, ...]
    depth: int
    width: int
    modules: int
    parameters: int
    parameter_bytes: int


def describe(
    module: nn.Module, config: PretrainedConfig | None, input_names: Collection[str] = ()
) -> Architecture:
    """Names the family and measures the module tree.

    Args:
        module: The model; its parameters may be on the meta device.
        config: Its config, or None for a plain module.
        input_names: Names of the inputs that it is exported with, where known.
    """
    parameters = list(module.parameters())
    modalities = _modalities(module, config, input_names)
    return Architecture(
        family=_family(module, config, modalities),
        modalities=modalities,
        depth=_depth(module, config),
        width=_width(module, config),
        modules=sum(1 for _ in module.modules()),
        parameters=sum(item.numel() for item in parameters),
        parameter_bytes=sum(item.numel() * item.element_size() for item in parameters),
    )


def config_digest(config: PretrainedConfig | None) -> str | None:
    """SHA-256 over what the config says about the model, None without one.

    Names, dtypes and versions are left out, so that copies of a config agree.
    """
    if config is None:
        return None
    values = {key: item for key, item in config.to_dict().items() if key not in IDENTITY_FREE}
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _modalities(
    module: nn.Module, config: PretrainedConfig | None, input_names: Collection[str]
) -> tuple[str, ...]:
    names = list(input_names) or _words(getattr(module, "main_input_name", None))
    found = {_modality_of(name) for name in names}
    # Not by its properties, which may build a config anew and change what it shares.
    stored = {} if config is None else vars(config)
    for part, modality in PART_WORDS.items():
        if stored.get(f"{part}_config") is not None:
            found.add(modality)
    return tuple(sorted(name for name in found if name))


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _modality_of(name: str) -> str | None:
    return next((kind for word, kind in MODALITY_WORDS.items() if word in name), None)


def _family(module: nn.Module, config: PretrainedConfig | None, modalities: tuple[str, ...]) -> str:
    """The first rule that holds; the rarer a trait, the earlier its rule."""
    classes = {type(item).__name__.lower() for item in module.modules()}
    attends = any("attention" in name or "attn" in name for name in classes)
    senses = {"text", "vision", "audio", "layout"} & set(modalities)
    rules = {
        "moe": _is_mixture(config, classes),
        "state-space": any(name.endswith("A_log") for name, _ in module.named_parameters()),
        "detection": _is_detector(config, classes),
        "encoder-decoder": bool(getattr(config, "is_encoder_decoder", False)),
        "multimodal": len(senses) > 1,
        "audio": "audio" in senses,
        "vision-transformer": "vision" in senses and attends,
        "cnn": not attends and _has(module, nn.Conv2d, nn.Conv3d),
        "decoder": attends and _is_causal(module, config),
        "encoder": attends,
        "rnn": _has(module, nn.RNNBase),
    }
    return next((name for name, holds in rules.items() if holds), "plain")


def _is_mixture(config: PretrainedConfig | None, classes: Collection[str]) -> bool:
    counts = [value for part in _parts(config) if (value := _first_int(part, EXPERT_COUNTS))]
    return any(count > 1 for count in counts) or any("experts" in name for name in classes)


def _is_detector(config: PretrainedConfig | None, classes: Collection[str]) -> bool:
    queries = _first_int(config, ("num_queries", "num_detection_tokens"))
    return bool(queries) or any("detection" in name for name in classes)


def _is_causal(module: nn.Module, config: PretrainedConfig | None) -> bool:
    if getattr(config, "is_decoder", False):
        return True
    return any(getattr(item, "is_causal", False) is True for item in module.modules())


def _has(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(item, kinds) for item in module.modules())


def _parts(config: PretrainedConfig | None) -> Iterator[Any]:
    """The config and the configs directly inside it."""
    if config is not None:
        yield config
        for value in vars(config).values():
            if hasattr(value, "model_type"):
                yield value


def _depth(module: nn.Module, config: PretrainedConfig | None) -> int:
    for part in _parts(config):
        if layers := _first_int(part, DEPTHS):
            decoder = _first_int(part, DECODER_DEPTHS)
            return layers + (decoder if getattr(part, "is_encoder_decoder", False) else 0)
    stacks = [len(item) for item in module.modules() if isinstance(item, nn.ModuleList)]
    chains = [len(item) for item in module.modules() if isinstance(item, nn.Sequential)]
    return max(stacks or chains or [1])


def _width(module: nn.Module, config: PretrainedConfig | None) -> int:
    for part in _parts(config):
        if size := _first_int(part, WIDTHS, last=True):
            return size
    shapes = [tuple(item.shape) for item in module.parameters() if item.dim() > 1]
    return max((shape[0] for shape in shapes), default=0)


def _first_int(config: object, names: Collection[str], *, last: bool = False) -> int:
    """The first of these attributes that is a number, or numbers per stage; 0 if none is."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, list | tuple) and value and all(isinstance(i, int) for i in value):
            return int(value[-1] if last else sum(value))
    return 0
