"""Attributes of classes, modules and models in another's place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within it the owner's own attribute, which it must have, is the value."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def entry(entries: Any, name: str, value: object) -> Iterator[None]:
    """Within it the mapping's entry, which it must have, is the value."""
    before = entries[name]
    entries[name] = value
    try:
        yield
    finally:
        entries[name] = before


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's modules have the attributes, and dicts of them, that they had.

    A forward that keeps a result for its next call would else keep one of the capture's,
    which has no value.
    """
    before = [
        (entries, dict(entries))
        for module in model.modules()
        for entries in (vars(module), *_dicts(module))
    ]
    try:
        yield
    finally:
        for entries, saved in before:
            for name in entries.keys() - saved.keys():
                del entries[name]
            for name, value in saved.items():
                if entries.get(name) is not value:
                    entries[name] = value


def _dicts(module: nn.Module) -> list[dict[str, Any]]:
    """Those that the module has for attributes, its buffers among them."""
    return [value for value in vars(module).values() if isinstance(value, dict)]
