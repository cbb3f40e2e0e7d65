"""Which private parts of torch the recorded capture rests on, and whether they are there."""

from __future__ import annotations

import importlib

import torch
from packaging.version import Version

from strategies.errors import StrategyUnavailableError

OLDEST_TORCH = "2.9"

# Nothing public flags an export in progress, runs a module on symbolic sizes with its real
# weights, or lowers a graph that is not an exported program.
PRIVATE_PARTS = (
    "torch.compiler:_is_compiling_flag",
    "torch.compiler:_is_exporting_flag",
    "torch.fx.experimental.proxy_tensor:make_fx",
    "torch.fx.traceback:annotate",
    "torch._dispatch.python:enable_python_dispatcher",
    "torch._dynamo.source:ConstantSource",
    "torch._functorch.config:fake_tensor_propagate_real_tensors",
    "torch._prims_common:elementwise_dtypes",
    "torch._subclasses.fake_tensor:FakeTensorMode",
    "torch._subclasses.fake_tensor:DataDependentOutputException",
    "torch._subclasses.fake_tensor:DynamicOutputShapeException",
    "torch.fx.experimental.symbolic_shapes:GuardOnDataDependentSymNode",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.create_symbol",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.create_symintnode",
    "torch.onnx._internal.exporter._building:OpRecorder",
    "torch.onnx._internal.exporter._decomp:get_onnx_implemented_overloads",
    "torch.onnx._internal.exporter._decomp:create_onnx_friendly_decomposition_table",
    "torch.onnx._internal.exporter._registration:ONNXRegistry.from_torchlib",
    "torch.onnx._internal.exporter._tensors:SymbolicTensor",
)


def require_supported_torch() -> None:
    """Makes sure that this torch has everything that recording and lowering need.

    Raises:
        StrategyUnavailableError: It is too old, or a part is gone.
    """
    if Version(torch.__version__).release < Version(OLDEST_TORCH).release:
        raise StrategyUnavailableError(
            f"recording needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}",
            stage="prepare",
        )
    for part in PRIVATE_PARTS:
        try:
            find(part)
        except (ImportError, AttributeError) as error:
            raise StrategyUnavailableError(
                f"torch {torch.__version__} has no {part.replace(':', '.')}", stage="prepare"
            ) from error


def find(part: str) -> object:
    """The object that a `module:attribute` names.

    Raises:
        ImportError: There is no such module.
        AttributeError: It has no such attribute.
    """
    module, _, path = part.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found
