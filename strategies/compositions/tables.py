"""How a table of compositions is filled: by name, for functions and methods, in place or not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Composition = Callable[..., Any]
Table = dict[Any, Composition]

_ALIASES = {"axis": "dim", "keepdims": "keepdim"}
# Where torch keeps a function under the same name.
_PLACES = (
    torch,
    Tensor,
    torch.special,
    torch.linalg,
    torch.nn.functional,
    torch._C._nn,  # noqa: SLF001 - what torch.nn.utils calls
)


def composing(table: Table) -> Callable[..., Callable[[Composition], Composition]]:
    """A decorator that enters a composition under the names of what it stands in for."""

    def composes(*names: str) -> Callable[[Composition], Composition]:
        def enter(composition: Composition) -> Composition:
            called = knowing_aliases(composition)
            written = in_place(called)
            for name in names:
                for place in _PLACES:
                    for spelling, call in ((name, called), (f"{name}_", written)):
                        if hasattr(place, spelling):
                            table[getattr(place, spelling)] = call
            return composition

        return enter

    return composes


def knowing_aliases(composition: Composition) -> Composition:
    """The same, which takes NumPy's names of arguments too, as functions of torch do."""

    @functools.wraps(composition)
    def call(*args: Any, **kwargs: Any) -> Any:
        return composition(*args, **{_ALIASES.get(name, name): kwargs[name] for name in kwargs})

    return call


def in_place(composition: Composition) -> Composition:
    """The same, its result written into the first argument."""

    @functools.wraps(composition)
    def write(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor.copy_(composition(tensor, *args, **kwargs))

    return write


# Python's operators that write in place.
TABLE: Table = {
    getattr(Tensor, f"__i{name}__"): in_place(getattr(Tensor, f"__{name}__"))
    for name in ("and", "or", "xor", "lshift", "rshift")
}
