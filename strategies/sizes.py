"""Sizes that stay open where forward makes plain numbers of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from strategies.patching import attribute


@contextmanager
def kept_open(model: nn.Module) -> Iterator[None]:
    """Within it, `len` of a tensor is a symbol in the model's code, and so is a `torch_int`.

    What the built-in functions answer are always plain numbers. So their names stand for
    other functions, in the modules of Python that the model's classes are from.
    """
    with ExitStack() as stack:
        for module in _sources(model):
            names = vars(module)
            if "len" not in names:
                names["len"] = _length
                stack.callback(names.pop, "len")
            for name in _OPEN.keys() & names.keys():
                stack.enter_context(attribute(module, name, _open(names[name], _OPEN[name])))
        yield


def _sources(model: nn.Module) -> list[Any]:
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    names = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "torch"}
    return [sys.modules[name] for name in names - {object.__module__} if name in sys.modules]


def _length(item: Any) -> Any:
    return item.shape[0] if isinstance(item, torch.Tensor) and item.dim() else len(item)


def _open(original: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(number: Any) -> Any:
        is_symbol = isinstance(number, torch.SymInt | torch.SymFloat)
        return function(number) if is_symbol else original(number)

    return call


# How transformers writes `int` and `float`.
_OPEN: Mapping[str, Callable[..., Any]] = {
    "torch_int": torch.sym_int,
    "torch_float": torch.sym_float,
}
