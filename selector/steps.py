"""What happens to a model in its session: it is loaded once, then studied, then attempted."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.errors import AnalysisError
from selector.features import ModelFeatures
from strategies.base import Candidate, ExportArtifact, ExportRequest
from strategies.hierarchy import Hierarchy, read_hierarchy

if TYPE_CHECKING:
    from selector.inputs import ExampleInputs
    from selector.reference import Reference
    from selector.source import LoadedModel, ModelSource
    from selector.verification import VerificationReport

SCHEMA = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The loaded model, as the session keeps it."""

    loaded: LoadedModel

    def summary(self) -> tuple[str, ...]:
        """What the asking process should know of the loading: its notes."""
        return self.loaded.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOrder:
    """What to find out about a model.

    Attributes:
        task: The task it was asked for, or None.
        given: The user's own inputs, see `inputs.make_inputs`.
        dynamic: Whether axes may vary.
        check: Whether unseen cases will be needed, for verification.
    """

    task: str | None = None
    given: Any = None
    dynamic: bool = True
    check: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is known of a model before any attempt.

    Attributes:
        inputs: The recipe for its inputs.
        reference: What eager PyTorch answers.
        features: What the ranker looks at; None where the analysis failed.
        notes: What the user should know, one sentence each.
    """

    inputs: ExampleInputs
    reference: Reference
    features: ModelFeatures | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOrder:
    """One candidate's work order, all of it picklable."""

    candidate: Candidate
    study: Study
    directory: Path
    opset: int
    external_data: bool | None
    verify: str
    tolerance: float | None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A file that is right, and what was found about it."""

    artifact: ExportArtifact
    verification: VerificationReport
    hierarchy: Hierarchy


def load_subject(source: ModelSource) -> Subject:
    """Loads the model; runs in the session itself."""
    from selector.source import load  # noqa: PLC0415 - imports torch and transformers

    return Subject(loaded=load(source))


def study_subject(subject: Subject, order: StudyOrder) -> Study:
    """Makes inputs, runs eager PyTorch on them, and computes the features.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
    """
    from selector.reference import compute_reference  # noqa: PLC0415 - imports torch

    inputs = _inputs(subject, order)
    features, notes = _features(subject, inputs)
    reference = compute_reference(
        subject.loaded.module,
        inputs,
        value_dependent=features is None or features.value_dependent,
        unseen=order.check,
    )
    notes = (*inputs.notes, *notes)
    return Study(inputs=inputs, reference=reference, features=features, notes=notes)


def features_of_subject(subject: Subject, order: StudyOrder) -> ModelFeatures:
    """The features alone.

    Raises:
        AnalysisError: They could not be computed.
    """
    return _analyzed(subject, _inputs(subject, order))


def _inputs(subject: Subject, order: StudyOrder) -> ExampleInputs:
    from selector.inputs import make_inputs  # noqa: PLC0415 - imports torch

    loaded = subject.loaded
    return make_inputs(
        loaded.module, loaded.config, task=order.task, given=order.given, dynamic=order.dynamic
    )


def _analyzed(subject: Subject, inputs: ExampleInputs) -> ModelFeatures:
    from selector.analysis import analyze_module  # noqa: PLC0415 - imports torch

    return analyze_module(subject.loaded.module, subject.loaded.config, inputs)


def _features(
    subject: Subject, inputs: ExampleInputs
) -> tuple[ModelFeatures | None, tuple[str, ...]]:
    try:
        return _analyzed(subject, inputs), ()
    except AnalysisError as error:
        return None, (f"the analysis failed, so the order is the static one: {error}",)


def attempt_candidate(subject: Subject, order: AttemptOrder) -> Verified:
    """One attempt: capture, lower, tag, save, verify; runs in a process of its own.

    Raises:
        StrategyError: The candidate did not produce a right file.
    """
    from selector.verification import unverified_report, verify_file  # noqa: PLC0415 - imports ORT
    from strategies import registry  # noqa: PLC0415 - imports onnx

    strategy = registry.resolve(order.candidate.strategy)
    artifact = strategy(_request(subject, order))
    if order.verify == "off":
        report = unverified_report(artifact.path)
    else:
        report = verify_file(
            artifact.path,
            order.study.reference,
            dynamic=order.candidate.dynamic,
            tolerance=order.tolerance,
        )
    _append_metadata(artifact.path, report.metadata())
    return Verified(artifact=artifact, verification=report, hierarchy=read_hierarchy(artifact.path))


def _request(subject: Subject, order: AttemptOrder) -> ExportRequest:
    inputs, reference = order.study.inputs, order.study.reference
    dynamic = order.candidate.dynamic
    return ExportRequest(
        candidate=order.candidate,
        load_model=lambda: subject.loaded.module,
        inputs=inputs.make(seed=0),
        dynamic_axes=inputs.dynamic_axes if dynamic else {},
        constants=inputs.constants,
        output_names=reference.output_names,
        output_axes=reference.output_axes if dynamic else {},
        directory=order.directory,
        opset=order.opset,
        external_data=order.external_data,
        metadata={**order.metadata, **_provenance(order.candidate)},
    )


def _provenance(candidate: Candidate) -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415 - only here

    packages = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "autoexport.schema": SCHEMA,
        "autoexport.strategy": candidate.strategy,
        "autoexport.options": str(candidate),
        "autoexport.versions": f"python {platform.python_version()}, {versions}",
    }


def _append_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Adds entries to a saved model's metadata without rewriting it.

    A message followed by a message parses as the two merged, repeated fields
    concatenated (Protocol Buffers encoding, "Last One Wins"), so the verification result
    is appended to the very bytes that were verified.
    """
    import onnx  # noqa: PLC0415 - only here

    addition = onnx.ModelProto()
    for key, value in entries.items():
        addition.metadata_props.add(key=key, value=value)
    with path.open("ab") as stream:
        stream.write(addition.SerializeToString())


def verify_subject(
    _: Subject, path: Path, study: Study, tolerance: float | None
) -> VerificationReport:
    """Compares an existing file with the loaded model; runs in a process of its own.

    Raises:
        VerificationError: The file is not right.
    """
    from selector.verification import has_dynamic_axes, verify_file  # noqa: PLC0415 - imports ORT

    return verify_file(path, study.reference, dynamic=has_dynamic_axes(path), tolerance=tolerance)
