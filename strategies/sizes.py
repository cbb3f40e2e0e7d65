"""Sizes that stay open where forward makes plain numbers of them."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as symbols

from strategies import stretches
from strategies.patching import attribute


@contextmanager
def kept_open(model: nn.Module, *, values: bool = False) -> Iterator[None]:
    """Within it, `len` of a tensor is a symbol in the model's code, and so is a `torch_int`.

    So are `int`, `float`, `min` and `max` of symbols, and none is chosen for good. What the
    built-in functions answer are always plain numbers. So their names stand for other
    functions, in the modules of Python that the model's classes are from.

    Nor is a size that happens to be 1 on the example, such as a count of chunks, taken to be
    1 at any size, as torch would have it.

    Args:
        model: Whose code is run.
        values: Whether `int` and `float` of a tensor are symbols too.
    """
    with ExitStack() as stack:
        stack.enter_context(_ones_open())
        stack.enter_context(stretches.kept_open(model))
        for module in sources(model):
            names = vars(module)
            for name in _BUILTINS.keys() - names.keys():
                names[name] = _BUILTINS[name]
                stack.callback(names.pop, name)
            for name in _NUMBERS.keys() - names.keys() - _used_as_types(module):
                names[name] = _number_type(name, values=values)
                stack.callback(names.pop, name)
            for name in _OPEN.keys() & names.keys():
                stack.enter_context(attribute(module, name, _open(names[name], _OPEN[name])))
        yield


def _ones_open() -> AbstractContextManager[None]:
    switches: Any = symbols
    found: AbstractContextManager[None] = switches.patch(backed_size_oblivious=True)
    return found


def sources(model: nn.Module) -> list[Any]:
    """The modules of Python that the classes of a model are from."""
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    names = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "torch"}
    return [sys.modules[name] for name in names - {object.__module__} if name in sys.modules]


def _length(item: Any) -> Any:
    if isinstance(item, stretches.Stretch):
        return item.size
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


def _number_type(name: str, *, values: bool) -> type:
    """What stands for `int` or `float`; asking for instances means those of the real one."""
    builtin, function = getattr(builtins, name), _NUMBERS[name]

    class Kind(type):
        def __call__(cls, *args: Any, **options: Any) -> Any:
            number = args[0] if len(args) == 1 else None
            if values and isinstance(number, torch.Tensor):
                number = number.item()
            if isinstance(number, torch.SymInt | torch.SymFloat):
                return function(number)
            return builtin(*args, **options)

        def __instancecheck__(cls, item: object) -> bool:
            return isinstance(item, builtin)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, builtin)

    return Kind(name, (), {})


@functools.cache
def _used_as_types(module: ModuleType) -> frozenset[str]:
    """Those of `int` and `float` that the module's code does more with than call them.

    A tensor's dtype, for instance, can be the real one only.
    """
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, SyntaxError, TypeError):
        return frozenset(_NUMBERS)
    used: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            asks = isinstance(node.func, ast.Name) and node.func.id in _ASKING
            used += [*(() if asks else node.args), *(item.value for item in node.keywords)]
        elif isinstance(node, ast.Compare):
            used += [part for side in (node.left, *node.comparators) for part in _parts(side)]
    return frozenset(item.id for item in used if isinstance(item, ast.Name)) & _NUMBERS.keys()


def _parts(expression: ast.expr) -> list[ast.expr]:
    return expression.elts if isinstance(expression, ast.Tuple | ast.Set) else [expression]


_ASKING = {"isinstance", "issubclass", "cast", "map"}
_NUMBERS: Mapping[str, Callable[..., Any]] = {"int": torch.sym_int, "float": torch.sym_float}
# How transformers writes `int` and `float`.
_OPEN: Mapping[str, Callable[..., Any]] = {
    f"torch_{name}": function for name, function in _NUMBERS.items()
}
