"""Makes the request that a strategy gets, for a model and example inputs that a test chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from strategies.base import Candidate, ExportRequest
from strategies.calling import flatten_outputs, unique_names

Axes = Mapping[str, Mapping[int, str]]


def request_for(  # noqa: PLR0913 - as many as a request has parts
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    candidate: Candidate,
    directory: Path,
    *,
    axes: Axes | None = None,
    output_axes: Axes | None = None,
    constants: Mapping[str, object] | None = None,
    **fields: Any,
) -> ExportRequest:
    constants = constants or {}
    with torch.no_grad():
        outputs = flatten_outputs(model(**inputs, **constants))
    return ExportRequest(
        candidate=candidate,
        load_model=lambda: model,
        inputs=inputs,
        dynamic_axes=(axes or {}) if candidate.dynamic else {},
        constants=constants,
        output_names=tuple(unique_names([name for name, _ in outputs], taken=inputs)),
        output_axes=(output_axes or {}) if candidate.dynamic else {},
        directory=directory,
        **fields,
    )


def largest_error(path: Path, model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Largest error of any output, relative to its magnitude."""
    with torch.no_grad():
        expected = [tensor.numpy() for _, tensor in flatten_outputs(model(**inputs))]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    assert [array.shape for array in found] == [array.shape for array in expected]
    return max(
        float(np.abs(mine - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))
        for mine, theirs in zip(found, expected, strict=True)
    )
