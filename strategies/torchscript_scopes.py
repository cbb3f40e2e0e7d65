"""Exact module paths from the TorchScript tracer: the one place that reaches into it.

The tracer names the scope of every call by looking the module up in a map, once a call.
Filling that map with dotted paths, and counting the look-ups, makes the scope of every
lowered node say which call of which module it comes from. Torch has no public way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.jit._trace
from torch import nn
from torch.onnx._internal.torchscript_exporter import utils as exporter_utils

from strategies.calling import NamedCall
from strategies.errors import StrategyUnavailableError
from strategies.hierarchy import ModuleScope

MINIMUM_TORCH = (2, 9)
# Characters that neither Python names nor the exporter's own name building use.
_DOT, _CALL = "|", "@"
_SETUP = "_setup_trace_module_map"


def require_supported_torch() -> None:
    """Raises StrategyUnavailableError where torch's tracer is not the one known here."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    present = hasattr(exporter_utils, _SETUP) and hasattr(torch.jit._trace, "_trace_module_map")  # noqa: SLF001 - the point of this file
    if version < MINIMUM_TORCH or not present:
        msg = f"torch {torch.__version__} does not let module scopes be set while tracing"
        raise StrategyUnavailableError(msg, hint="install the torch that constraints.txt names")


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
        name = f"{path.replace('.', _DOT)}{_CALL}{index}"
        return torch._C._jit_onnx_create_full_scope_name("module", name)  # noqa: SLF001 - the point of this file


@contextmanager
def exact_scopes(call: NamedCall) -> Iterator[None]:
    """Within it, `torch.onnx.export(dynamo=False)` of `call` names nodes after exact scopes."""
    original = getattr(exporter_utils, _SETUP)

    def set_up(*_: Any) -> set[str]:
        torch.jit._trace._trace_module_map = _ScopeMap(call)  # noqa: SLF001 - the point of this file
        return set()

    setattr(exporter_utils, _SETUP, set_up)
    try:
        yield
    finally:
        setattr(exporter_utils, _SETUP, original)


def scope_from_name(name: str) -> ModuleScope | None:
    """The scope in a node name that was made under `exact_scopes`, or None without one."""
    for part in reversed(name.split("/")[:-1]):
        path, mark, index = part.rpartition(_CALL)
        if mark and index.isdigit():
            return ModuleScope(path.replace(_DOT, "."), int(index))
    return None
