"""Sizes that stay open where forward makes plain numbers of them."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as symbols

from strategies.patching import attribute


@contextmanager
def kept_open(model: nn.Module) -> Iterator[None]:
    """Within it, `len` of a tensor is a symbol in the model's code, and so is a `torch_int`.

    `min` and `max` of symbols are symbols too, and none is chosen for good. What the built-in
    functions answer are always plain numbers. So their names stand for other functions, in
    the modules of Python that the model's classes are from.

    Nor is a size that happens to be 1 on the example, such as a count of chunks, taken to be
    1 at any size, as torch would have it.
    """
    with ExitStack() as stack:
        stack.enter_context(_ones_open())
        for module in _sources(model):
            names = vars(module)
            for name in _BUILTINS.keys() - names.keys():
                names[name] = _BUILTINS[name]
                stack.callback(names.pop, name)
            for name in _OPEN.keys() & names.keys():
                stack.enter_context(attribute(module, name, _open(names[name], _OPEN[name])))
        yield


def _ones_open() -> AbstractContextManager[None]:
    switches: Any = symbols
    found: AbstractContextManager[None] = switches.patch(backed_size_oblivious=True)
    return found


def _sources(model: nn.Module) -> list[Any]:
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    names = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "torch"}
    return [sys.modules[name] for name in names - {object.__module__} if name in sys.modules]


def _length(item: Any) -> Any:
    return item.shape[0] if isinstance(item, torch.Tensor) and item.dim() else len(item)


def _extreme(
    builtin: Callable[..., Any], function: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    def extreme(*args: Any, **options: Any) -> Any:
        items = list(args[0]) if len(args) == 1 else args
        numbers = all(isinstance(item, int | torch.SymInt) for item in items)
        if options or not numbers or not any(isinstance(item, torch.SymInt) for item in items):
            return builtin(items, **options)
        return functools.reduce(function, items)

    return extreme


def _open(original: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(number: Any) -> Any:
        is_symbol = isinstance(number, torch.SymInt | torch.SymFloat)
        return function(number) if is_symbol else original(number)

    return call


_BUILTINS: Mapping[str, Callable[..., Any]] = {
    "len": _length,
    "min": _extreme(builtins.min, torch.sym_min),
    "max": _extreme(builtins.max, torch.sym_max),
}
# How transformers writes `int` and `float`.
_OPEN: Mapping[str, Callable[..., Any]] = {
    "torch_int": torch.sym_int,
    "torch_float": torch.sym_float,
}
