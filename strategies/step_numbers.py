"""The number of a loop's step while one step is recorded for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strategies import torchscript


class LoopError(Exception):
    """A loop cannot be kept; forward can be traced with its loops unrolled."""


class StepNumber(Tensor):
    """A traced number that takes part in arithmetic and in keys, and that nobody can read."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function; what it makes of numbers alone is a number of this kind too."""
        del types
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - the documented way
            result = func(*args, **(kwargs or {}))
            is_number = type(result) is Tensor and not result.is_floating_point()
            if is_number and result.dim() == 0 and all(map(_is_number, args)):
                return unread(result)
        return result

    def _read(self, *_: object) -> Any:
        raise LoopError("the number of a step is read")

    __index__ = __int__ = __float__ = __bool__ = __hash__ = item = tolist = _read


def unread(number: Tensor) -> StepNumber:
    """The same for the trace."""
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as above
        result = number.detach().as_subclass(StepNumber)
        torchscript.give_value(result, number)
    return result


def in_key(key: Any) -> Any:
    """A key of a tensor without such numbers in it, for torch looks into them."""
    if isinstance(key, tuple):
        return tuple(map(in_key, key))
    if isinstance(key, slice):
        return slice(in_key(key.start), in_key(key.stop), in_key(key.step))
    if not isinstance(key, StepNumber):
        return key
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as above
        result = key.detach().as_subclass(Tensor)
        torchscript.give_value(result, key)
    return result


def _is_number(item: object) -> bool:
    return isinstance(item, int | float) or (isinstance(item, Tensor) and item.dim() == 0)
