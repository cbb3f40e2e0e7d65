"""What happens to a model in its session: it is loaded once, then studied, then attempted."""

from __future__ import annotations

import contextlib
import pickle
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.errors import AnalysisError, InvalidRequestError
from selector.features import ModelFeatures
from selector.plans import OTHER_SIZES
from strategies.base import VOID, Candidate, ExportArtifact, ExportRequest
from strategies.errors import FrozenAxisError, OtherSizesError, StrategyError
from strategies.hierarchy import Hierarchy, read_hierarchy

if TYPE_CHECKING:
    from torch import nn

    from selector.eager import Eager
    from selector.inputs import ExampleInputs
    from selector.light import Stand
    from selector.reference import Reference
    from selector.source import LoadedModel, ModelSource
    from selector.verification import VerificationReport

    # Gives a module and its inputs, as `StudyOrder.given`, or None where they can be made up.
    Build = Callable[[], tuple[nn.Module, Any]]

SCHEMA = "1"
FULL, LIGHT, OFF = "full", "light", "off"
# What a session needs beyond `worker.PRELOADED`, so that its processes share it.
IMPORTS = (
    "selector.loading",
    "selector.inputs",
    "selector.analysis",
    "selector.reference",
    "selector.verification",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The loaded model, as the session keeps it.

    Attributes:
        loaded: The model.
        given: Inputs that it came with, see `StudyOrder`.
    """

    loaded: LoadedModel
    given: Any = None

    def summary(self) -> tuple[str, ...]:
        """What the asking process should know of the loading: its notes."""
        return self.loaded.notes

    def module_for(self, candidate: Candidate) -> nn.Module:
        """The module, with values where the candidate's capture reads any."""
        if candidate.weights != VOID:
            self.loaded.weights.fill()
        return self.loaded.module


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOrder:
    """What to find out about a model.

    Attributes:
        task: The task it was asked for, or None.
        given: The user's own inputs, see `inputs.make_inputs`.
        dynamic: Whether axes may vary.
        verify: How files will be verified; decides what eager PyTorch has to answer.
        closely: Whether to record a forward even where its source tells enough to begin with.
    """

    task: str | None = None
    given: Any = None
    dynamic: bool = True
    verify: str = FULL
    closely: bool = True

    @property
    def check(self) -> bool:
        """Whether the model itself will be compared with files."""
        return self.verify == FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is known of a model before any attempt.

    Attributes:
        features: What the ranker looks at; None where the analysis failed.
        dynamic_axes: For each input its axes that may vary, index to name.
        static_cases: Whether there are enough cases to verify a static file.
        tensors_only: Whether tensors are all that forward is given, as a scripted one needs.
        notes: What the user should know, one sentence each.
        seconds: Wall seconds that the analysis took, eager PyTorch's runs not counted.
        evidence: The pickled recipe for its inputs and eager PyTorch's answers. Passed on as
            it is by the asking process, which would import torch to read it.
    """

    features: ModelFeatures | None
    dynamic_axes: Mapping[str, Mapping[int, str]]
    static_cases: bool
    tensors_only: bool
    notes: tuple[str, ...]
    seconds: float
    evidence: bytes = field(repr=False)

    @property
    def inputs(self) -> ExampleInputs:
        """The recipe for the model's inputs; imports torch."""
        return _opened(self.evidence)[0]

    @property
    def reference(self) -> Reference:
        """What eager PyTorch answers; imports torch."""
        return _opened(self.evidence)[1]

    @property
    def stand(self) -> Stand | None:
        """What runs in the model's stead, where it is too large; imports torch."""
        return _opened(self.evidence)[2]


@lru_cache(maxsize=1)
def _opened(evidence: bytes) -> tuple[ExampleInputs, Reference, Stand | None]:
    inputs, reference, stand = pickle.loads(evidence)  # noqa: S301 - from our own session
    return inputs, reference, stand


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOrder:
    """One candidate's work order, all of it picklable."""

    candidate: Candidate
    study: Study
    directory: Path
    opset: int
    weights: str
    verify: str
    tolerance: float | None
    data_stem: str = "model"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A file that is right, and what was found about it."""

    artifact: ExportArtifact
    verification: VerificationReport
    hierarchy: Hierarchy


def load_subject(source: ModelSource, *, real: bool = True) -> Subject:
    """Loads the model; runs in the session itself.

    Args:
        source: From `source.resolve`.
        real: Whether its values will be needed, by verification for instance.
    """
    from selector.source import load  # noqa: PLC0415 - imports torch and transformers

    return Subject(loaded=load(source, real=real))


def build_subject(source: ModelSource, build: Build) -> Subject:
    """Builds a module that is in no file, and its inputs; runs in the session itself."""
    from selector.loading import adopt  # noqa: PLC0415 - imports torch and transformers

    loaded, given = adopt(source, build)
    return Subject(loaded=loaded, given=given)


def study_subject(subject: Subject, order: StudyOrder) -> Study:
    """Makes inputs, runs eager PyTorch on them, and computes the features.

    What a weightless run accepted may be refused with the real weights, ids that the
    vocabulary does not have for instance; then only real runs count.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
    """
    from selector.eager import Eager, Weights  # noqa: PLC0415 - imports torch

    loaded = subject.loaded
    weights = Weights.FIRST if order.check else Weights.NEVER
    eager = Eager(loaded.module, weights=weights, prepare=loaded.weights.fill)
    try:
        study = _study(subject, order, eager)
        mistaken = eager.guessed and order.check and OTHER_SIZES in study.reference.refused
    except InvalidRequestError:
        if not eager.guessed:
            raise
        mistaken = True
    if mistaken:
        study = _study(subject, order, Eager(loaded.module, prepare=loaded.weights.fill))
    return study


def _study(subject: Subject, order: StudyOrder, eager: Eager) -> Study:
    from selector.reference import (  # noqa: PLC0415 - imports torch
        compute_reference,
        has_static_cases,
    )

    inputs = _inputs(subject, order, eager)
    features, notes, seconds = _features(subject, inputs, eager, closely=order.closely)
    reference = compute_reference(
        subject.loaded.module,
        inputs,
        value_dependent=features is None or features.value_dependent,
        size_dependent=features is None or features.size_dependent,
        # A forward that ran to its end without values does the same whatever they are.
        thorough=features is None or features.value_dependent or bool(features.notes),
        unseen=order.check,
        eager=eager,
    )
    stand = _stand(subject, inputs, features) if order.verify == LIGHT else None
    return Study(
        features=features,
        dynamic_axes=inputs.dynamic_axes,
        static_cases=has_static_cases(reference) or not order.check,
        tensors_only=not inputs.constants,
        notes=(*inputs.notes, *notes),
        seconds=seconds,
        evidence=pickle.dumps((inputs, reference, stand)),
    )


def _stand(subject: Subject, inputs: ExampleInputs, features: ModelFeatures | None) -> Stand:
    from selector.light import prepare_stand  # noqa: PLC0415 - imports torch

    loaded = subject.loaded
    dependent = features is None or features.value_dependent
    return prepare_stand(loaded.module, loaded.config, inputs, value_dependent=dependent)


def study_closely(subject: Subject, study: Study, order: StudyOrder) -> Study:
    """Records the forward, which the study left out.

    Where that shows what the source did not, all of the study is done anew, as its cases were
    chosen by what it knew. A forward that cannot be recorded adds nothing but a note.
    """
    from selector.analysis import record_module  # noqa: PLC0415 - imports torch

    loaded, features = subject.loaded, study.features
    if features is None:
        return study
    clock = time.perf_counter()
    try:
        features = record_module(features, loaded.module, study.inputs, prepare=loaded.weights.fill)
    except AnalysisError as error:
        return replace(study, notes=(*study.notes, f"the analysis is incomplete: {error}"))
    if features.value_dependent or features.notes:
        return study_subject(subject, replace(order, closely=True))
    seconds = study.seconds + time.perf_counter() - clock
    return replace(study, features=features, seconds=seconds)


def needs_completion(study: Study, *, dynamic: bool) -> bool:
    """Whether a file's verification needs more cases than were made."""
    return not dynamic and not study.static_cases


def complete_study(subject: Subject, study: Study) -> Study:
    """Adds what a static file is held against, which no dynamic one needs."""
    from selector.reference import with_static_cases  # noqa: PLC0415 - imports torch

    subject.loaded.weights.fill()
    reference = with_static_cases(subject.loaded.module, study.reference)
    evidence = pickle.dumps((study.inputs, reference, study.stand))
    return replace(study, static_cases=True, evidence=evidence)


def features_of_subject(subject: Subject, order: StudyOrder) -> ModelFeatures:
    """The features alone.

    Raises:
        AnalysisError: They could not be computed.
    """
    from selector.eager import Eager, Weights  # noqa: PLC0415 - imports torch

    loaded = subject.loaded
    eager = Eager(loaded.module, weights=Weights.NEVER, prepare=loaded.weights.fill)
    features, _ = _analyzed(subject, _inputs(subject, order, eager), eager, closely=True)
    return features


def _inputs(subject: Subject, order: StudyOrder, eager: Eager) -> ExampleInputs:
    from selector.inputs import make_inputs  # noqa: PLC0415 - imports torch

    return make_inputs(
        eager.module,
        subject.loaded.config,
        task=order.task,
        given=order.given if order.given is not None else subject.given,
        dynamic=order.dynamic,
        eager=eager,
    )


def _analyzed(
    subject: Subject, inputs: ExampleInputs, eager: Eager, *, closely: bool
) -> tuple[ModelFeatures, float]:
    """The features, and the seconds that they took without eager PyTorch's runs."""
    from selector.analysis import (  # noqa: PLC0415 - imports torch
        read_module,
        record_module,
    )

    loaded = subject.loaded
    clock, ran = time.perf_counter(), eager.seconds
    features = read_module(loaded.module, loaded.config, inputs, eager=eager)
    if closely or not features.source_suffices:
        features = record_module(features, loaded.module, inputs, prepare=loaded.weights.fill)
    return features, time.perf_counter() - clock - (eager.seconds - ran)


def _features(
    subject: Subject, inputs: ExampleInputs, eager: Eager, *, closely: bool
) -> tuple[ModelFeatures | None, tuple[str, ...], float]:
    clock = time.perf_counter()
    try:
        features, seconds = _analyzed(subject, inputs, eager, closely=closely)
    except AnalysisError as error:
        why = f"the analysis failed, so the order is the static one: {error}"
        return None, (why,), time.perf_counter() - clock
    return features, (), seconds


def attempt_candidate(subject: Subject, order: AttemptOrder) -> Verified:
    """One attempt: capture, lower, tag, save, verify; runs in a process of its own.

    Raises:
        StrategyError: The candidate did not produce a right file.
    """
    from selector.recapture import another_example  # noqa: PLC0415 - only where it is needed

    request = _request(subject, order)
    try:
        return _attempt(subject, order, request)
    except (FrozenAxisError, OtherSizesError) as error:
        study = order.study
        inputs = another_example(error, study.inputs, study.features)
        if inputs is None or order.verify != FULL:
            raise
        again = _at(request, "again", inputs=inputs, past_branches=True)
        with contextlib.suppress(StrategyError):
            return _attempt(subject, order, again)
        with contextlib.suppress(StrategyError):
            return _attempt_both(subject, order, _at(request, "both", beyond=inputs), error)
        # What the model's own example leads to says more.
        raise


def _at(request: ExportRequest, name: str, **changes: Any) -> ExportRequest:
    """Another request, whose file lies in a folder of its own."""
    directory = request.directory / name
    directory.mkdir()
    return replace(request, directory=directory, **changes)


def _attempt_both(
    subject: Subject, order: AttemptOrder, request: ExportRequest, error: StrategyError
) -> Verified:
    """One that joins captures at the example's sizes and at those that the first is wrong at.

    Either capture may be right at its own sizes only, so others are tried as well.

    Raises:
        StrategyError: The strategy joins none, or the file is not right.
    """
    from selector.reference import with_larger_sizes  # noqa: PLC0415 - imports torch
    from strategies import registry  # noqa: PLC0415 - imports onnx

    study = order.study
    joins = registry.resolve(order.candidate.strategy).joins
    if not joins or not isinstance(error, OtherSizesError) or error.report.frozen_axes:
        raise error
    sizes = next(case.sizes for case in error.report.cases if not case.ok)
    subject.loaded.weights.fill()
    reference = with_larger_sizes(subject.loaded.module, study.reference, sizes)
    evidence = pickle.dumps((study.inputs, reference, study.stand))
    order = replace(order, study=replace(study, evidence=evidence))
    return _attempt(subject, order, request)


def _attempt(subject: Subject, order: AttemptOrder, request: ExportRequest) -> Verified:
    from strategies import registry  # noqa: PLC0415 - imports onnx

    artifact = registry.resolve(order.candidate.strategy)(request)
    report = _verified(subject, order, request, artifact.path)
    _append_metadata(artifact.path, report.metadata())
    return Verified(artifact=artifact, verification=report, hierarchy=read_hierarchy(artifact.path))


def _verified(
    subject: Subject, order: AttemptOrder, request: ExportRequest, path: Path
) -> VerificationReport:
    from selector.structure import unverified_report  # noqa: PLC0415 - imports onnx
    from selector.verification import verify_file  # noqa: PLC0415 - imports ORT

    module, study = subject.loaded.module, order.study
    if order.verify == OFF:
        return unverified_report(path)
    if order.verify == LIGHT and study.stand is not None:
        from selector.light import verify_lightly  # noqa: PLC0415 - imports torch

        return verify_lightly(
            path,
            module,
            request,
            reference=study.reference,
            stand=study.stand,
            tolerance=order.tolerance,
        )
    return verify_file(
        path,
        study.reference,
        dynamic=order.candidate.dynamic,
        tolerance=order.tolerance,
        module=module,
    )


def _request(subject: Subject, order: AttemptOrder) -> ExportRequest:
    inputs, reference = order.study.inputs, order.study.reference
    dynamic = order.candidate.dynamic
    return ExportRequest(
        candidate=order.candidate,
        load_model=lambda: subject.module_for(order.candidate),
        inputs=inputs.make(seed=0),
        dynamic_axes=inputs.dynamic_axes if dynamic else {},
        constants=inputs.constants,
        output_names=reference.output_names,
        output_axes=reference.output_axes if dynamic else {},
        directory=order.directory,
        opset=order.opset,
        weights=order.weights,
        data_stem=order.data_stem,
        locate=subject.loaded.weights.locate,
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
    subject: Subject, path: Path, study: Study, tolerance: float | None
) -> VerificationReport:
    """Compares an existing file with the loaded model; runs in a process of its own.

    Raises:
        VerificationError: The file is not right.
    """
    from selector.verification import has_dynamic_axes, verify_file  # noqa: PLC0415 - imports ORT

    dynamic = has_dynamic_axes(path)
    if needs_completion(study, dynamic=dynamic):
        study = complete_study(subject, study)
    return verify_file(
        path,
        study.reference,
        dynamic=dynamic,
        tolerance=tolerance,
        module=subject.loaded.module,
    )
