"""An independent witness of which module issues what: forward hooks and a dispatch mode.

It shares no code with the strategies: hooks keep a stack of the modules that run, a
dispatch mode sees every aten operation, and values tell which node of a file computes
what an operation computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Scope = tuple[str, int]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base has no types
    """What every call of every module computed."""

    values: list[tuple[Scope, Array]] = field(default_factory=list)
    scopes: set[Scope] = field(default_factory=set)
    stack: list[Scope] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's base has no types

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        scope = self.stack[-1] if self.stack else ("", 0)
        self.scopes.add(scope)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.values.append((scope, tensor.detach().clone().numpy()))
        return result

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        calls: Counter[str] = Counter()

        def enter(path: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.stack.append((path, calls[path]))
                calls[path] += 1

            return hook

        def leave(*_: Any) -> None:
            self.stack.pop()

        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()


def witness(model: nn.Module, inputs: Mapping[str, Tensor]) -> Witness:
    found = Witness()
    with torch.no_grad(), found.watching(model):
        model(**inputs)
    return found


def node_values(path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """Every intermediate float value of a file, by its name."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    present = {output.name for output in model.graph.output}
    names = [
        output
        for node in model.graph.node
        for output in node.output
        if output in present or kinds.get(output) == onnx.TensorProto.FLOAT
    ]
    for name in names:
        if name not in present:
            model.graph.output.add(name=name).CopyFrom(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return dict(zip(names, session.run(names, feeds), strict=True))


@dataclass
class Agreement:
    """How the tags of a file compare with what the witness saw."""

    traced: int = 0
    identified: int = 0
    wrong: list[str] = field(default_factory=list)


def compare_tags(path: Path, model: nn.Module, inputs: Mapping[str, Tensor]) -> Agreement:
    """Holds the tag of every traced node against the witness.

    A node whose value equals what operations computed must be tagged with the call of one
    of them. One that passes its input on, as a slice of everything does, or is not a
    float, must be tagged with a call that computed something.
    """
    seen = witness(model, inputs)
    computed = node_values(path, inputs)
    result = Agreement()
    for node in onnx.load(path, load_external_data=False).graph.node:
        tags = {entry.key: entry.value for entry in node.metadata_props}
        if tags["autoexport.attribution"] != "traced":
            continue
        result.traced += 1
        scope = (tags["autoexport.module"], int(tags["autoexport.call"]))
        issuers = _issuers_of(node, computed, seen)
        result.identified += bool(issuers)
        if scope not in (issuers or seen.scopes):
            result.wrong.append(f"{node.name}: {scope}, seen {sorted(issuers)}")
    return result


def _issuers_of(node: onnx.NodeProto, computed: dict[str, Array], seen: Witness) -> set[Scope]:
    """Calls that computed the very value of a node; none where the value does not tell."""
    value = computed.get(node.output[0])
    if value is None or value.size < 4:
        return set()
    if any(name in computed and np.array_equal(computed[name], value) for name in node.input):
        return set()
    return {
        scope
        for scope, other in seen.values
        if other.shape == value.shape and np.allclose(other, value, rtol=1e-4, atol=1e-6)
    }
