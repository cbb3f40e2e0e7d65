"""Calling a module by name: tensors in under forward's names, a flat tuple of tensors out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


class NamedCall(nn.Module):
    """Binds positional tensors to forward's parameter names and flattens the result.

    Exporters fill a forward's signature positionally, which is wrong as soon as an
    optional parameter is skipped; behind this wrapper they cannot.

    Args:
        module: The module to call; stands as the attribute `module`, so parameter
            names carry the prefix `module.`.
        input_names: Forward's parameter name of each positional tensor.
        constants: Python values bound to further parameters, `use_cache=False` and such.
        around: Makes the context in which the module is called, and nothing else.
    """

    PREFIX = "module"

    def __init__(
        self,
        module: nn.Module,
        input_names: tuple[str, ...],
        constants: Mapping[str, object],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__()
        self.module = module
        self.input_names = input_names
        self.constants = dict(constants)
        self.around = around

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the output's tensors in the order of `flatten_outputs`."""
        return tuple(tensor for _, tensor in self.named_outputs(*tensors))

    def named_outputs(self, *tensors: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """The same with their names."""
        bound = dict(zip(self.input_names, tensors, strict=True))
        with self.around():
            outputs = self.module(**bound, **self.constants)
        return flatten_outputs(outputs)


def flatten_outputs(outputs: object) -> list[tuple[str, torch.Tensor]]:
    """Names every tensor of what forward returned, depth first.

    A mapping or dataclass gives its keys or fields, one tensor is `output`, a sequence
    gives `output_0`, `output_1`, …; nested ones join with a dot: `hidden_states.0`.
    `None` and values that are not tensors are left out, as ONNX has no place for them.

    Raises:
        TypeError: Nothing in the output is a tensor.
    """
    if isinstance(outputs, torch.Tensor):
        return [("output", outputs)]
    if isinstance(outputs, list | tuple) and not hasattr(outputs, "_fields"):
        named = [
            pair for index, item in enumerate(outputs) for pair in _walk(f"output_{index}", item)
        ]
    else:
        named = list(_walk("", outputs))
    if not named:
        msg = f"forward returned no tensor, but {type(outputs).__name__}"
        raise TypeError(msg)
    return named


def unique_names(names: Iterable[str], *, taken: Iterable[str]) -> list[str]:
    """An ONNX graph holds every name once, inputs and outputs together."""
    used = set(taken)
    unique = []
    for name in names:
        free = name
        number = 0
        while free in used:
            number += 1
            free = f"{name}_output" if number == 1 else f"{name}_output_{number}"
        used.add(free)
        unique.append(free)
    return unique


def _walk(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    for key, item in _children(value):
        yield from _walk(f"{name}.{key}" if name else str(key), item)


def _children(value: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)  # a namedtuple
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)


@contextmanager
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Undoes what a forward writes to its module's buffers, such as a counter or a cache."""
    # Outside inference mode nothing can write to those that were made in it.
    buffers = [item for item in module.buffers() if not (item.is_meta or item.is_inference())]
    saved = [(buffer, buffer._version, buffer.clone()) for buffer in buffers]  # noqa: SLF001 - the only way to see that a tensor was written to
    try:
        yield
    finally:
        for buffer, version, original in saved:
            if buffer._version != version:  # noqa: SLF001 - as above
                buffer.copy_(original)
