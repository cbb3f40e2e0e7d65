"""Imports that a library makes at its start for what is hardly ever called, put off until then."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def postponed(module: str, *functions: str) -> Iterator[None]:
    """Lets `from module import function` succeed without importing the module.

    What is imported meanwhile gets functions that import the real ones when they are first
    called, and behave as those do. Any other name of the module imports it at once, and so
    does everybody who imports it afterwards.

    Args:
        module: Full name; nothing happens where it is imported already, or not installed.
        *functions: Names of functions of it, not of classes.
    """
    spec = None if module in sys.modules else _find(module)
    if spec is None:
        yield
        return
    sys.modules[module] = stand_in = _StandIn(spec, functions)
    try:
        yield
    finally:
        stand_in.withdraw()


def _find(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


class _StandIn(ModuleType):
    """Stands in `sys.modules` for a module that nobody needs yet."""

    def __init__(self, spec: ModuleSpec, functions: tuple[str, ...]) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        for function in functions:
            setattr(self, function, _later(spec.name, function))

    def __getattr__(self, name: str) -> Any:
        # Python and `inspect` ask every module for these.
        if name.startswith("__"):
            raise AttributeError(name)
        self.withdraw()
        return getattr(importlib.import_module(self.__name__), name)

    def withdraw(self) -> None:
        """Makes room for the real module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


def _later(module: str, name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return function
