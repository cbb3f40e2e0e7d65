"""The zoo: tiny random-weight models of every architecture that transformers can configure.

`base:bert` is the base model of a type, `head:BertForMaskedLM` the class of that name.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from scripts.shrinking import LADDER, shrink
from scripts.shrinking_fields import token_ids
from scripts.tiny_models import SIZES, TEXT, TINY, tiny_config, tiny_model
from scripts.zoo_census import RUNS, census
from selector.config_lookup import scopes

__all__ = [
    "SIZES",
    "TEXT",
    "TINY",
    "build",
    "chosen",
    "class_of",
    "names",
    "tiny_config",
    "tiny_model",
]

BASE, HEAD = "base", "head"
KINDS = (BASE, HEAD)
# More than these are not tiny.
MOST_PARAMETERS = 50_000_000
# Fewer dimensions are biases, scales and gates.
MATRIX = 2
# The tasks whose heads users export, each the name of an auto mapping.
TASKS = (
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
    "MASKED_LM",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "INSTANCE_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "IMAGE_SEGMENTATION",
    "CTC",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "ZERO_SHOT_OBJECT_DETECTION",
)


# The heads that a collection measures: what three strategies cost on them is hours.
MOST_HEADS = 200
SEED = 0


@lru_cache(maxsize=1)
def _classes() -> dict[str, str]:
    """Every model of the zoo: its name, and the name of its class."""
    bases = {
        f"{BASE}:{kind}": _first(classes)
        for kind, classes in modeling_auto.MODEL_MAPPING_NAMES.items()
    }
    return bases | {name: name.removeprefix(f"{HEAD}:") for name in _tasks()}


def _tasks() -> dict[str, tuple[str, str]]:
    """The heads by name: the first task that each one serves, and its model type."""
    found: dict[str, tuple[str, str]] = {}
    for task in TASKS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        for kind, classes in mapping.items():
            found.setdefault(f"{HEAD}:{_first(classes)}", (task, kind))
    return found


def names(kind: str) -> tuple[str, ...]:
    """The names of all models of a kind, `base` or `head`; builds nothing."""
    return tuple(name for name in _classes() if name.startswith(f"{kind}:"))


def chosen(kind: str) -> tuple[str, ...]:
    """The names of the models of a kind that a collection measures, out of those that run.

    All base models, and of the heads `MOST_HEADS`: every task in turn gives one, of a model
    type that has the fewest so far, in an order drawn by `SEED`.
    """
    known = census()
    running = [name for name in names(kind) if name in known and known[name].status == RUNS]
    if kind != HEAD:
        return tuple(running)
    tasks = _tasks()
    random.Random(SEED).shuffle(running)  # noqa: S311 - a choice, not a secret
    waiting: dict[str, list[str]] = {task: [] for task in TASKS}
    for name in running:
        waiting[tasks[name][0]].append(name)
    taken: list[str] = []
    types: Counter[str] = Counter()
    while any(waiting.values()) and len(taken) < MOST_HEADS:
        for heads in filter(None, waiting.values()):
            name = min(heads, key=lambda head: types[tasks[head][1]])
            heads.remove(name)
            types[tasks[name][1]] += 1
            taken.append(name)
    return tuple(sorted(taken[:MOST_HEADS]))


def class_of(name: str) -> type[PreTrainedModel]:
    """The class of a model of the zoo."""
    found: type[PreTrainedModel] = getattr(transformers, _classes()[name])
    return found


def config_of(name: str, level: int) -> PretrainedConfig:
    """A rung of the ladder of configs for a model of the zoo.

    Raises:
        Exception: Whatever the config's class has against the new sizes.
    """
    model = class_of(name)
    kind, _, key = name.partition(":")
    config_class: Any = CONFIG_MAPPING[key] if kind == BASE else model.config_class
    config: PretrainedConfig = config_class()
    # Some mappings name the config of which the class takes a part.
    wanted = model.config_class or type(config)
    parts = [part for _, part in scopes(config) if isinstance(part, wanted)]
    config = shrink(parts[0] if parts else config, LADDER[level])
    config.architectures = [model.__name__]
    text = config.get_text_config()
    if kind == HEAD and getattr(text, "pad_token_id", None) is None:
        # Heads that look for the last token of every row need one for padding.
        taken = set(token_ids(config))
        text.pad_token_id = next(number for number in itertools.count() if number not in taken)
    return config


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A tiny model with random weights in eval mode, the same on every call.

    Raises:
        ValueError: No rung of the ladder makes a model; the first one's error is the cause.
    """
    found = census().get(name)
    known = found.level if found else None
    errors: list[Exception] = []
    for level in range(len(LADDER)) if known is None else (known,):
        try:
            return build_rung(name, level, seed=seed)
        except Exception as error:  # noqa: BLE001 - classes refuse configs in any way they like
            errors.append(error)
    raise ValueError(f"{name} cannot be built: {errors[0]}") from errors[0]


def build_rung(name: str, level: int, *, seed: int = 0) -> nn.Module:
    """The model of one rung of the ladder.

    Raises:
        Exception: Whatever the model's class has against the config.
    """
    model: Any = class_of(name)
    config = config_of(name, level)
    with torch.device("meta"):
        size = sum(item.numel() for item in model(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters are not tiny")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: nn.Module = model(config)
        _enliven(made)
    return made.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def _enliven(model: nn.Module) -> None:
    """Scales matrices so that layers pass signals on as they would after training.

    Initial weights have a deviation meant for wide layers, or are zero: in narrow ones signals
    die out, and what picks the highest scores finds nothing but ties. The least deviation is that
    under which sums keep their terms' variance (LeCun et al., 1998, "Efficient BackProp", 4.6);
    more of it would add up over deep stacks without normalisations.
    """
    for weights in model.parameters():
        if weights.dim() < MATRIX or not (weights.numel() and weights.is_floating_point()):
            continue
        wanted = weights[0].numel() ** -0.5
        deviation = weights.std(correction=0).item()
        if deviation == 0.0:
            weights.normal_(std=wanted)
        elif deviation < wanted:
            weights.mul_(wanted / deviation)


def _first(classes: str | Sequence[str]) -> str:
    return classes if isinstance(classes, str) else classes[0]


if __name__ == "__main__":
    # It imports this module, which `--check` runs under another name.
    from scripts.zoo_check import main

    sys.exit(main())
