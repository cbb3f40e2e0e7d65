"""Exact module paths from the TorchScript tracer.

The tracer names the scope of every call by looking the module up in a map, once a call.
Filling that map with dotted paths, and counting the look-ups, makes the scope of every
lowered node say which call of which module it comes from.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from strategies import torchscript
from strategies.calling import NamedCall
from strategies.hierarchy import ModuleScope

# Characters that neither Python names nor the exporter's own name building use.
_DOT, _CALL = "|", "@"


class _ScopeMap(dict[nn.Module, str]):
    """Module to path; every look-up is a call and gives the path with the call's index."""

    def __init__(self, call: nn.Module) -> None:
        prefix = NamedCall.PREFIX
        super().__init__()
        for name, module in call.named_modules():
            if name == prefix or name.startswith(f"{prefix}."):
                self[module] = name.removeprefix(prefix).removeprefix(".")
        self._calls: Counter[nn.Module] = Counter()

    def get(self, module: nn.Module, default: Any = None) -> Any:
        path = super().get(module)
        if path is None:
            return default
        index = self._calls[module]
        self._calls[module] += 1
        return torchscript.scope_name(f"{path.replace('.', _DOT)}{_CALL}{index}")


def exact_scopes(call: NamedCall) -> AbstractContextManager[None]:
    """Within it, `torch.onnx.export(dynamo=False)` of `call` names nodes after exact scopes."""
    return torchscript.module_names(_ScopeMap(call))


def scope_from_name(name: str) -> ModuleScope | None:
    """The scope in a node name that was made under `exact_scopes`, or None without one."""
    for part in reversed(name.split("/")[:-1]):
        path, mark, index = part.rpartition(_CALL)
        if mark and index.isdigit():
            return ModuleScope(path.replace(_DOT, "."), int(index))
    return None
