"""What Python's code does with sizes, which are tensors while they are traced.

Its `min` and `max` would be one or the other for good, its `len` is a plain number, and
tensors lack what numbers can do besides arithmetic.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strategies.step_numbers import StepNumber
from strategies.stretches import Stretch
from strategies.torchscript import is_tracing
from strategies.void import is_void


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Within it the model's code calls `min`, `max` and `len` that stay open for other sizes.

    Where a plain number is the lesser or greater one, it remains a plain number: what is
    as wide as a window wants to know how wide that is.
    """
    sources = {type(part).__module__ for part in model.modules()}
    with ExitStack() as stack:
        methods = {**_ROUNDING, **{name: _of_number(name) for name in _METHODS}}
        for name in sorted(methods.keys() - vars(Tensor).keys()):
            setattr(Tensor, name, methods[name])
            stack.callback(delattr, Tensor, name)
        for source in sorted(sources & sys.modules.keys()):
            module = sys.modules[source]
            for name, function in _FUNCTIONS.items():
                if not source.startswith("torch.") and name not in vars(module):
                    setattr(module, name, function)
                    stack.callback(delattr, module, name)
        yield


def _open(
    builtin: Callable[..., Any], function: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Any]:
    def extreme(*args: Any, **options: Any) -> Any:
        if options or not is_tracing():
            found = builtin(*args, **options)
            # Where a loop's other steps run unseen, what they end with is given other values.
            return found.clone() if _is_size(found) else found
        items = list(args[0]) if len(args) == 1 else args
        steps = [item for item in items if isinstance(item, StepNumber)]
        found = steps[0] if steps else builtin(items)
        for other in items if _is_size(found) else ():
            found = function(found, torch.as_tensor(other))
        return found

    return extreme


def _length(items: Any) -> Any:
    if isinstance(items, Stretch):
        return items.size
    is_traced = isinstance(items, Tensor) and items.dim() > 0 and is_tracing()
    return items.shape[0] if is_traced else len(items)


def _of_number(name: str) -> Callable[..., Any]:
    def call(size: Tensor, *args: Any) -> Any:
        number = float(size) if size.is_floating_point() else int(size)
        return getattr(number, name)(*args)

    return call


def _rounded(
    builtin: Callable[..., Any], function: Callable[[Tensor], Tensor]
) -> Callable[..., Any]:
    def rounded(number: Tensor) -> Any:
        if not is_tracing() or number.dim() or is_void(number):
            return builtin(float(number))
        return function(number).long() if number.is_floating_point() else number.clone()

    return rounded


def _is_size(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and value.dtype is torch.int64


_METHODS = {"__round__", "as_integer_ratio", "bit_count", "bit_length"}
# What `math` asks for before it makes a plain number of something.
_ROUNDING = {
    "__ceil__": _rounded(math.ceil, torch.ceil),
    "__floor__": _rounded(math.floor, torch.floor),
    "__trunc__": _rounded(math.trunc, torch.trunc),
}
_FUNCTIONS = {
    "min": _open(builtins.min, torch.minimum),
    "max": _open(builtins.max, torch.maximum),
    "len": _length,
}
