"""A transformers model in the form that exporters can lower, for the time of a capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Where a transformers config keeps the two choices. The public setters cannot put a model
# back: they refuse to give a submodel the default that it came with.
CHOICES = ("_attn_implementation_internal", "_experts_implementation_internal")


@contextmanager
def exportable(model: Any) -> Iterator[None]:
    """Chooses implementations of attention and experts that consist of plain operators.

    Fused attention has branches that depend on the mask, and grouped expert products
    have no ONNX counterpart. The alternatives compute the same; verification compares
    with the model as it was. Modules that offer no choice are left alone.
    """
    before = [
        (config, {name: vars(config)[name] for name in CHOICES if name in vars(config)})
        for config in _configs(model)
    ]
    try:
        if any(chosen.get(CHOICES[0]) not in (None, "eager") for _, chosen in before):
            model.set_attn_implementation("eager")
        if any(chosen.get(CHOICES[1]) not in (None, "batched_mm") for _, chosen in before):
            model.set_experts_implementation("batched_mm")
        yield
    finally:
        for config, chosen in before:
            vars(config).update(chosen)


def _configs(model: Any) -> list[Any]:
    """Every distinct config in a transformers model, those of submodels included."""
    if not hasattr(model, "set_attn_implementation"):
        return []
    found: dict[int, Any] = {}
    waiting = [module.config for module in model.modules() if hasattr(module, "config")]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "sub_configs"):
            continue
        found[id(config)] = config
        waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())
