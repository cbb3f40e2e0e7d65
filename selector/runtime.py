"""Running an ONNX file in ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import torch.utils.dlpack

from selector.comparison import Array
from strategies.base import first_line

# ONNX's number of the element type, which NumPy has no dtype for.
_BFLOAT16 = 16
_SILENT = 4
# `Fail: [ONNXRuntimeError] : 1 : FAIL : `, before what matters.
_PREFIX = re.compile(r"^\w+: \[ONNXRuntimeError\] : \d+ : \w+ : ")
LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class RuntimeRefusalError(Exception):
    """ONNX Runtime would not load or run the file; the message is its own first line."""


class Session:
    """A loaded file.

    Args:
        path: The file, its external data beside it.
        level: Of ONNX Runtime's graph optimiser, a key of `LEVELS`; `all` is its default.
        model: What to load in the file's place, with the external data beside that.

    Raises:
        RuntimeRefusalError: The file cannot be loaded.
    """

    def __init__(self, path: Path, level: str = "all", *, model: bytes | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.graph_optimization_level = LEVELS[level]
        # As OpenMP's in `strategies.worker`: threads that spin lose where cores are shared.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if model is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(path.parent)
            )
        try:
            self._session = ort.InferenceSession(
                str(path) if model is None else model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # The file is still staged, in a folder that means nothing to the user.
            message = _message(error).replace(str(path), path.name)
            raise RuntimeRefusalError(f"does not load it: {message}") from error
        self.level = level
        self._names = [item.name for item in self._session.get_outputs()]
        self._types = {item.name: item.type for item in self._session.get_inputs()}
        self._half = "tensor(bfloat16)" in {
            *self._types.values(),
            *(item.type for item in self._session.get_outputs()),
        }
        self._options = ort.RunOptions()
        self._options.log_severity_level = _SILENT
        # The arena grows by doubling. Kept from one run to the next, it leaves no room for
        # large activations at another size; without it every operator waits for new pages.
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs it; bfloat16 goes in and comes out as float32.

        Raises:
            RuntimeRefusalError: The file does not run on these inputs.
        """
        try:
            outputs = self._run_values(inputs) if self._half else self._run(inputs)
        except Exception as error:
            raise RuntimeRefusalError(f"does not run it: {_message(error)}") from error
        for name, value in outputs.items():
            if not isinstance(value, np.ndarray):
                raise RuntimeRefusalError(f"gives no tensor for {name}")
        return outputs

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        values = self._session.run(None, dict(inputs), self._options)
        return dict(zip(self._names, values, strict=True))

    def _run_values(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        feeds = {name: self._value(name, array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(None, feeds, self._options)
        return {name: _to_numpy(value) for name, value in zip(self._names, values, strict=True)}

    def _value(self, name: str, array: Array) -> ort.OrtValue:
        if self._types.get(name) != "tensor(bfloat16)":
            return ort.OrtValue.ortvalue_from_numpy(array)
        bits = torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)


def _message(error: Exception) -> str:
    return _PREFIX.sub("", first_line(error))


def _to_numpy(value: ort.OrtValue) -> Array:
    if value.element_type() == _BFLOAT16:
        return torch.utils.dlpack.from_dlpack(value).float().numpy()
    array: Array = value.numpy()
    return array
