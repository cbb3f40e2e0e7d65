"""Pickles modules that neither pickle nor torch would: a `pickle_module` for `torch.save`."""

from __future__ import annotations

import copyreg
import io
from typing import Any

import cloudpickle
from torch import nn
from torch.nn.utils import parametrize


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Classes of scripts and functions travel by value, and parametrized modules travel at all.

    Torch gives a parametrized module (weight norm and such) a class made on the spot,
    whose `__getstate__` refuses, as such a class could not be found again by its name.
    By value it need not be.
    """

    def reducer_override(self, obj: Any) -> Any:
        """How to rebuild `obj`; NotImplemented leaves it to the usual way."""
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            return copyreg.__newobj__, (type(obj),), own_state(obj)  # type: ignore[attr-defined]  # typeshed lacks it
        return super().reducer_override(obj)


def own_state(module: nn.Module) -> dict[str, Any]:
    """A module's attributes as its own class, not a parametrized one, would pickle them."""
    refuses = parametrize.is_parametrized(module)
    cls: Any = type(module).__mro__[1] if refuses else type(module)
    state: dict[str, Any] = cls.__getstate__(module)
    return state


def dumps(value: Any) -> bytes:
    """Pickles one value."""
    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()
