"""Attributes of classes and modules in another's place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
