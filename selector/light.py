"""Light verification: the file's structure, and the numbers of a shallow copy of its model.

For models that are too large to run. What is delivered is never run: that its graph computes
the right numbers is taken from a copy with random weights and few layers, which the same
candidate exports, and that its weights are in their places from where they lie on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from selector.reference import Reference, compute_reference
from selector.shallow import Shallow, plan_shallow, refusal
from selector.structure import some
from selector.verification import verify_file, verify_structure
from strategies import registry
from strategies.errors import VerificationError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig

    from selector.inputs import ExampleInputs
    from selector.structure import FileFacts
    from selector.verdict import VerificationReport
    from strategies.base import ExportRequest
    from strategies.stored import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What runs in the model's stead, and what eager PyTorch makes of it."""

    shallow: Shallow
    reference: Reference

    @property
    def note(self) -> str:
        """What was checked, for the user."""
        changes = ", ".join(self.shallow.changes)
        return (
            "verified lightly: the file's structure, and the numbers of a copy with random "
            f"weights and fewer layers ({changes})"
        )


def prepare_stand(
    module: nn.Module,
    config: PretrainedConfig | None,
    inputs: ExampleInputs,
    *,
    value_dependent: bool,
) -> Stand:
    """Builds the copy once, and asks eager PyTorch.

    Raises:
        InvalidRequestError: There can be no copy with fewer layers, or it does not run.
    """
    shallow = plan_shallow(module, config)
    try:
        copy = shallow.build(module)
        reference = compute_reference(copy, inputs, value_dependent=value_dependent)
    except Exception as error:
        raise refusal(shallow, error) from error
    return Stand(shallow=shallow, reference=reference)


def verify_lightly(  # noqa: PLR0913 - what was made, of what, how, and what it is held against
    path: Path,
    module: nn.Module,
    request: ExportRequest,
    *,
    reference: Reference,
    stand: Stand,
    tolerance: float | None = None,
) -> VerificationReport:
    """Checks a file without running it.

    Args:
        path: The file.
        module: What it was made of; its weights are not read.
        request: What it was made by.
        reference: The names, dtypes and axes that the file has to have.
        stand: From `prepare_stand`.
        tolerance: As `verify_file` takes it.

    Raises:
        VerificationError: Its structure is not right, or the copy's numbers are not.
    """
    structure = verify_structure(
        path,
        reference,
        dynamic=request.candidate.dynamic,
        further=lambda facts: (
            _stray_modules(facts, module) or misplaced(path, module, request.locate)
        ),
    )
    report = _verify_copy(stand, module, request, tolerance)
    return replace(
        report,
        level="light",
        nodes=structure.nodes,
        untagged=structure.untagged,
        seconds=structure.seconds + report.seconds,
        notes=(*report.notes, stand.note),
    )


def _verify_copy(
    stand: Stand, module: nn.Module, request: ExportRequest, tolerance: float | None
) -> VerificationReport:
    copy = stand.shallow.build(module)
    candidate, reference = request.candidate, stand.reference
    with tempfile.TemporaryDirectory(dir=request.directory) as folder:
        order = replace(
            request,
            load_model=lambda: copy,
            output_names=reference.output_names,
            output_axes=reference.output_axes if candidate.dynamic else {},
            directory=Path(folder),
            weights="copy",
            locate=lambda _: None,
        )
        artifact = registry.resolve(candidate.strategy)(order)
        try:
            return verify_file(
                artifact.path,
                reference,
                dynamic=candidate.dynamic,
                tolerance=tolerance,
                module=copy,
            )
        except VerificationError as error:
            changes = ", ".join(stand.shallow.changes)
            error.reason = f"a copy with {changes} and random weights: {error.reason}"
            raise


def _stray_modules(facts: FileFacts, module: nn.Module) -> str | None:
    known = {name for name, _ in module.named_modules(remove_duplicate=False)}
    stray = sorted(facts.modules - known)
    if stray:
        return f"tags name modules that the model does not have: {some(stray)}"
    return None


def misplaced(
    path: Path, module: nn.Module, locate: Callable[[torch.Tensor], StoredTensor | None]
) -> str | None:
    """Parameters whose bytes the file takes from elsewhere than where the checkpoint has them."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    wrong = []
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        parameter = parameters.get(tensor.name)
        stored = None if parameter is None else locate(parameter.data)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if stored is None or not entries.get("location", "").endswith(".safetensors"):
            continue
        there = int(entries.get("offset", 0)), tuple(tensor.dims)
        if there != (stored.offset, tuple(stored.shape)):
            wrong.append(tensor.name)
    return f"bytes of other tensors stand for {some(wrong)}" if wrong else None
