"""Which private parts of torch a capture rests on, and whether this torch has them."""

from __future__ import annotations

import importlib

import torch
from packaging.version import Version

from strategies.errors import StrategyUnavailableError

OLDEST_TORCH = "2.9"

# Nothing public flags an export in progress, runs a module on symbolic sizes with its real
# weights, or lowers a graph that is not an exported program.
RECORDING = (
    "torch._higher_order_ops.associative_scan:associative_scan",
    "torch.compiler:_is_compiling_flag",
    "torch.compiler:_is_exporting_flag",
    "torch.fx.experimental.proxy_tensor:make_fx",
    "torch.fx.traceback:annotate",
    "torch._dispatch.python:enable_python_dispatcher",
    "torch._dynamo.source:ConstantSource",
    "torch._functorch.config:fake_tensor_propagate_real_tensors",
    "torch._prims_common:elementwise_dtypes",
    "torch._subclasses.fake_tensor:FakeTensor.tolist",
    "torch._subclasses.fake_tensor:FakeTensorMode",
    "torch._subclasses.fake_tensor:DataDependentOutputException",
    "torch._subclasses.fake_tensor:DynamicOutputShapeException",
    "torch._subclasses.functional_tensor:FunctionalTensor.tolist",
    "torch:_from_functional_tensor",
    "torch.fx.experimental.symbolic_shapes:free_unbacked_symbols",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.set_real_tensor_prop_unbacked_vals",
    "torch.fx.experimental.symbolic_shapes:GuardOnDataDependentSymNode",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.create_symbol",
    "torch.fx.experimental.symbolic_shapes:ShapeEnv.create_symintnode",
    "torch.onnx._internal.exporter._building:OpRecorder",
    "torch.onnx._internal.exporter._decomp:get_onnx_implemented_overloads",
    "torch.onnx._internal.exporter._decomp:create_onnx_friendly_decomposition_table",
    "torch.onnx._internal.exporter._registration:ONNXRegistry.from_torchlib",
    "torch.onnx._internal.exporter._tensors:SymbolicTensor",
)

# Nothing public pauses the tracer while an operator is answered by its shape.
WEIGHTLESS = (
    "torch:_C._dispatch_tls_is_dispatch_key_excluded",
    "torch:_C._dispatch_tls_set_dispatch_key_excluded",
    "torch:_C._get_tracing_state",
    "torch:_C._set_tracing_state",
)

# Nothing public names the module scopes of a trace, says what it recorded for a tensor, keeps
# weights out of its lowering, projects for torch's attention in another way, or calls a module
# with other weights.
TRACING = (
    "torch:_C._get_value_trace",
    "torch:_C._set_value_trace",
    "torch:_C._jit_onnx_create_full_scope_name",
    "torch._higher_order_ops.associative_scan:associative_scan",
    "torch.jit._trace:_trace_module_map",
    "torch.nn.functional:_in_projection_packed",
    "torch.nn.utils.stateless:_functional_call",
    "torch.nn.utils.stateless:_reparametrize_module",
    "torch.onnx._internal.torchscript_exporter.utils:_apply_friendly_debug_names",
    "torch.onnx._internal.torchscript_exporter.utils:_get_named_param_dict",
    "torch.onnx._internal.torchscript_exporter.utils:_is_constant_tensor_list",
    "torch.onnx._internal.torchscript_exporter.utils:_setup_trace_module_map",
    "torch.onnx._internal.torchscript_exporter.utils:_split_tensor_list_constants",
)


def require_supported_torch(parts: tuple[str, ...]) -> None:
    """Makes sure that this torch has all parts that a capture needs.

    Args:
        parts: Each `module:attribute`.

    Raises:
        StrategyUnavailableError: It is too old, or a part is gone.
    """
    if Version(torch.__version__).release < Version(OLDEST_TORCH).release:
        raise StrategyUnavailableError(
            f"torch {OLDEST_TORCH} or newer is needed, this is {torch.__version__}",
            stage="prepare",
        )
    for part in parts:
        try:
            find(part)
        except (ImportError, AttributeError) as error:
            raise StrategyUnavailableError(
                f"torch {torch.__version__} has no {part.replace(':', '.')}",
                stage="prepare",
                hint="install the torch that constraints.txt names",
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
