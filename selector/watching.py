"""Sees operators read and write a checkpoint's tensors; the one place that needs private torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from selector.weights import WeightStore
from strategies.void import MEMORY_READS


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Within it, operators on tensors that wait for their values find them there.

    What is computed from weights while a model is being built is therefore computed from
    their values, and what is written to is no longer found on disk.

    Args:
        store: Whose tensors are waited for.
    """

    def __init__(self, store: WeightStore) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self._store = store

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            return func(*args, **kwargs)
        if func._schema.is_mutable:  # noqa: SLF001 - torch's schemas have no public name
            self._store.forget(_written(func, args, kwargs))
        with self._store.filled_for(_tensors((args, kwargs))):
            return func(*args, **kwargs)


class WatchReads(TorchFunctionMode):
    """Within it, functions that read memory without an operator find values there too.

    Args:
        store: Whose tensors are waited for.
    """

    def __init__(self, store: WeightStore) -> None:
        super().__init__()
        self._store = store

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MEMORY_READS:
            self._store.fill(_tensors((args, kwargs)))
        return func(*args, **kwargs)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [item for item in pytree.tree_leaves(tree) if isinstance(item, torch.Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    arguments = func._schema.arguments  # noqa: SLF001 - as above
    named = dict(zip((item.name for item in arguments), args, strict=False)) | dict(kwargs)
    return _tensors(
        [
            named.get(item.name)
            for item in arguments
            if item.alias_info is not None and item.alias_info.is_write
        ]
    )
