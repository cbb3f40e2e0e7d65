"""What a checkpoint folder must hold, read and checked without importing torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from selector.errors import ModelLoadError
from strategies.base import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG = "config.json"

# In the order in which transformers looks for them.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# Weights that exist but are not read; named in messages, so that nobody searches for the reason.
_OTHER_WEIGHTS = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
)

# What the tokenizers and processors of transformers read and write, beside the configs.
_COMPANIONS = (
    CONFIG,
    "generation_config.json",
    "*processor_config.json",
    "feature_extractor_config.json",
    "*tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*.json",
    "*vocab*.txt",
    "vocab.bpe",
    "merges*.txt",
    "bpe.codes",
    "dict.txt",
    "emoji.json",
    "normalizer.json",
    "chat_template.*",
    "*.jinja",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
)

_POINTER = b"version https://git-lfs"

# The limit of the safetensors format itself.
_LONGEST_HEADER = 100_000_000


def is_companion(name: str, *, remote_code: bool = False) -> bool:
    """Whether a file belongs beside an exported model: configs, tokenizer and preprocessor.

    Args:
        name: File name, without folders.
        remote_code: Whether the model's own Python files count.
    """
    patterns = (*_COMPANIONS, "*.py") if remote_code else _COMPANIONS
    return any(fnmatch(name, pattern) for pattern in patterns)


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's `config.json`.

    Raises:
        ModelLoadError: It is missing, broken, or does not say what kind of model it is of.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelLoadError(
            missing_config(str(folder), sorted(item.name for item in folder.iterdir()))
        )
    config = _read_json(path)
    remote = config.get("auto_map")
    if not isinstance(config.get("model_type"), str) and not (
        isinstance(remote, dict) and "AutoConfig" in remote
    ):
        raise ModelLoadError(
            f"{path} has no model_type, so it is not the config of a transformers model; "
            "load the model yourself and pass it as an nn.Module"
        )
    return config


def config_digest(config: PreTrainedConfig | Path) -> str:
    """SHA-256 of what a config says beyond its type's defaults, as canonical JSON.

    Versions, paths and dtypes are left out, so the same architecture has the same digest
    wherever it lies. A folder's config is read with transformers, without remote code.
    """
    said: dict[str, Any] = json.loads(_config_object(config).to_json_string(use_diff=True))
    for key in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        said.pop(key, None)
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _config_object(config: PreTrainedConfig | Path) -> PreTrainedConfig:
    if not isinstance(config, Path):
        return config
    from transformers import AutoConfig  # noqa: PLC0415 - seconds of imports

    found: PreTrainedConfig = AutoConfig.from_pretrained(config, trust_remote_code=False)
    return found


def missing_config(where: str, names: Collection[str]) -> str:
    """One line for a folder or repository without `config.json`, by what it has instead."""
    if "model_index.json" in names:
        return (
            f"{where} is a diffusers pipeline (it has model_index.json, no {CONFIG}); "
            "pass one of its components' folders, or the loaded component"
        )
    if "adapter_config.json" in names:
        return (
            f"{where} is an adapter without its base model (it has adapter_config.json, no "
            f"{CONFIG}); merge the two with peft and pass the result"
        )
    return f"{where} has no {CONFIG}, so it is not a transformers checkpoint"


def weights_entry(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    """The file that transformers starts to read weights from: one file, or an index of shards.

    safetensors before `.bin`, whole before sharded; None where there is neither.
    """
    named = config.get("transformers_weights")
    wanted = (named, *_WEIGHTS) if isinstance(named, str) else _WEIGHTS
    return next((name for name in wanted if name in names), None)


def missing_weights(where: str, names: Iterable[str]) -> str:
    """One line for a checkpoint without readable weights, and what to do."""
    others = [name for name in sorted(names) if any(fnmatch(name, p) for p in _OTHER_WEIGHTS)]
    found = f" (it has {', '.join(others[:3])}, which cannot be read)" if others else ""
    return (
        f"{where} has no model.safetensors and no pytorch_model.bin{found}; "
        "pass random_weights=True (--random-weights) to export it with random ones"
    )


def weight_files(folder: Path, entry: str) -> tuple[str, ...]:
    """Names of the files that hold the weights, in order; `entry` is one, or their index.

    Raises:
        ModelLoadError: The index is broken or points out of the folder.
    """
    if not entry.endswith(".index.json"):
        return (entry,)
    path = folder / entry
    shards = _read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelLoadError(f"{path} has no weight_map, so the weights cannot be found")
    names = tuple(sorted({str(name) for name in shards.values()}))
    for name in names:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise ModelLoadError(f"{path} points out of its folder, to {name!r}")
    return names


def weight_paths(folder: Path) -> tuple[Path, ...]:
    """The files that a checkpoint's weights are read from, their index left out; maybe none."""
    entry = weights_entry({item.name for item in folder.iterdir()}, read_config(folder))
    return tuple(folder / name for name in weight_files(folder, entry)) if entry else ()


def check_weights(folder: Path, entry: str) -> None:
    """Finds missing, truncated and broken weight files by their headers and lengths alone.

    Raises:
        ModelLoadError: Names the file and says what is wrong with it.
    """
    for name in weight_files(folder, entry):
        path = folder / name
        if not path.is_file():
            raise ModelLoadError(
                f"{path} is missing, though {entry} names it; fetch the checkpoint again"
            )
        if name.endswith(".safetensors"):
            read_header(path)
        else:
            _check_pickled(path)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name to dtype, shape and data_offsets.

    Layout: 8 bytes of length (little endian), that many bytes of JSON, then the data.

    Raises:
        ModelLoadError: The file is truncated or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        _refuse_pointer(path, start)
        if size < 8 or (length <= _LONGEST_HEADER and size < 8 + length):
            raise ModelLoadError(_truncated(path, size, 8 + length if size >= 8 else None))
        raw = file.read(length) if length <= _LONGEST_HEADER else b""
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        expected = 8 + length + int(end)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{path} is not a safetensors file or its header is damaged; fetch it again"
        ) from error
    if size < expected:
        raise ModelLoadError(_truncated(path, size, expected))
    if size > expected:
        raise ModelLoadError(
            f"{path} is damaged: {size} bytes where its header says {expected}; fetch it again"
        )
    return tensors


def data_start(path: Path) -> int:
    """Where in a safetensors file the data begins, which `data_offsets` count from."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def stored_dtypes(folder: Path, config: Mapping[str, Any]) -> frozenset[str]:
    """Names in torch of the floating dtypes that the weights are stored in.

    Read from the files where they are safetensors, else as the config says.
    """
    entry = weights_entry({item.name for item in folder.iterdir()}, config)
    if entry is None or ".safetensors" not in entry:
        said = config.get("dtype") or config.get("torch_dtype")
        return frozenset({said} if isinstance(said, str) else ())
    names = {
        str(tensor["dtype"])
        for name in weight_files(folder, entry)
        for tensor in read_header(folder / name).values()
    }
    known = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return frozenset(known.get(name, name) for name in names if "F" in name)


def _check_pickled(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    _refuse_pointer(path, start)
    # torch.save writes a zip archive, whose directory comes last. Older files are bare pickles,
    # whose length nothing tells.
    if not start or (start.startswith(b"PK") and not zipfile.is_zipfile(path)):
        raise ModelLoadError(_truncated(path, size, None))


def _refuse_pointer(path: Path, start: bytes) -> None:
    if start and _POINTER.startswith(start):
        raise ModelLoadError(
            f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository"
        )


def _truncated(path: Path, size: int, expected: int | None) -> str:
    of = f" of {expected}" if expected else ""
    return f"{path} is truncated: it has {size}{of} bytes; fetch it again"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds no JSON object")
    return value
