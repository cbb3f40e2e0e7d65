"""Checkpoints at full size that take no room on disk: a true header before a hole of zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PretrainedConfig

from selector.weights import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_sparse_checkpoint(config: PretrainedConfig, folder: Path, dtype: str = "float32") -> Path:
    """Writes `config.json` and a `model.safetensors` whose weights are all zero and no disk blocks.

    Args:
        config: Says the class in `architectures`, or leaves it to its type's base model.
        folder: Made where it does not exist.
        dtype: torch's name of the dtype of all floating-point weights.

    Returns:
        The folder.
    """
    cls = _model_class(config)
    with torch.device("meta"):
        model = cls(config)
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [cls.__name__]
    config.save_pretrained(folder)
    header, size = _header(_tensors(model), getattr(torch, dtype))
    path = folder / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(stream.tell() + size)
    return folder


def _model_class(config: PretrainedConfig) -> Any:
    import transformers  # noqa: PLC0415 - its classes are looked up by name

    names = config.architectures or ()
    if names:
        return getattr(transformers, names[0])
    # The mapping's type says it holds no tuples; it does, where a config has several classes.
    found: Any = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without the names that are tied to another one, as transformers saves it."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _header(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[bytes, int]:
    """The header, padded to a multiple of eight bytes, and the bytes of data after it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        stored = dtype if tensor.is_floating_point() else tensor.dtype
        begin, end = end, end + tensor.numel() * stored.itemsize
        entries[name] = {
            "dtype": NAMES[stored],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), end
