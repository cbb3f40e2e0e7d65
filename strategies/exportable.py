"""A transformers model in the form that exporters can lower, for the time of a capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Chooses implementations of attention and experts that consist of plain operators.

    Fused attention has branches that depend on the mask, and grouped expert products
    have no ONNX counterpart. The alternatives compute the same; verification compares
    with the model as it was. Modules that offer no choice are left alone.
    """
    set_attention = getattr(model, "set_attn_implementation", None)
    set_experts = getattr(model, "set_experts_implementation", None)
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    if set_attention and attention not in (None, "eager"):
        set_attention("eager")
    if set_experts and experts not in (None, "batched_mm"):
        set_experts("batched_mm")
    try:
        yield
    finally:
        if set_attention and attention not in (None, "eager"):
            set_attention(attention)
        if set_experts and experts not in (None, "batched_mm"):
            set_experts(experts)
