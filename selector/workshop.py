"""One model on the bench: its source, its session, and the steps that run there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from selector import checkpoint, steps
from selector.chain import Attempt, Progress, ProgressCallback
from selector.errors import AttemptCrashedError, ModelLoadError
from selector.publishing import Target
from selector.source import ModelSource, companion_files, resolve
from selector.staging import stage_module
from strategies.base import Candidate
from strategies.isolation import Limits, Outcome, Session, warm_host

if TYPE_CHECKING:
    from torch import nn

    from selector.features import ModelFeatures
    from selector.verification import VerificationReport

    Model = str | os.PathLike[str] | nn.Module


class Workshop:
    """A model in a session of its own, and everything that is done to it there.

    Use as a context manager; leaving it ends the session and removes what was staged.

    Attributes:
        session: Where the model is loaded and attempts are forked from.
        source: Where the model came from; set by `load`.
        notes: What the user should know about the loading, one sentence each.
        timings: Wall seconds of the stages so far.
    """

    source: ModelSource

    def __init__(
        self,
        staging_parent: Path | None = None,
        progress: ProgressCallback | None = None,
        warm: tuple[str, ...] = (),
        imports: tuple[str, ...] = (),
    ) -> None:
        # Importing torch takes seconds, which finding the model and its files can share.
        warm_host()
        self.session = Session(staging_parent, warm, (*steps.IMPORTS, *imports))
        self._progress = progress
        self.notes: tuple[str, ...] = ()
        self.timings: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.session.close()

    def load(
        self,
        model: Model,
        *,
        real: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        """Finds the model and loads it into the session.

        Args:
            model: As `auto_export` takes it.
            real: Whether the weights' values will be needed.
            meanwhile: Called while the session is busy importing and loading.
            limits: What loading may take; none by default.
            **options: Those of `source.resolve`.

        Raises:
            ModelLoadError: The model cannot be had.
            AttemptTimeoutError, AttemptOutOfMemoryError: Loading went beyond its limits.
        """
        with self._stage("source", f"finding {model_name(model)}"):
            self.source = resolve(model, **options)
        with self._stage("load", f"loading {self.source.name}"):
            if self.source.kind == "module":
                file = stage_module(cast("nn.Module", model), self.session.folder("module"))
                self.source = replace(self.source, module_file=file)
            try:
                self.notes = self.session.load(
                    partial(steps.load_subject, real=real),
                    self.source,
                    meanwhile=meanwhile,
                    limits=limits,
                )
            except AttemptCrashedError as error:
                raise ModelLoadError(
                    f"loading {self.source.name} ended its process, most likely for lack of memory"
                ) from error

    def build(self, name: str, build: steps.Build, limits: Limits | None = None) -> None:
        """Builds a module in the session, which then is in no other process.

        Args:
            name: For display and for files.
            build: Gives the module and its inputs; picklable.
            limits: What building may take; none by default.

        Raises:
            Exception: What building raised.
            AttemptCrashedError, AttemptTimeoutError, AttemptOutOfMemoryError: It ended the
                session.
        """
        self.source = ModelSource(name=name, kind="module", origin=name)
        with self._stage("load", f"building {name}"):
            self.notes = self.session.load(steps.build_subject, self.source, build, limits=limits)

    def study(self, order: steps.StudyOrder, limits: Limits | None = None) -> steps.Study:
        """Makes inputs, runs eager PyTorch, and analyses.

        Raises:
            InvalidRequestError: Inputs cannot be made up, or eager refuses them.
        """
        with self._stage("study", "making inputs, running PyTorch, analysing the model"):
            return self.session.attempt(steps.study_subject, order, limits=limits).value()

    def look_closer(self, study: steps.Study, order: steps.StudyOrder) -> steps.Study:
        """Adds to a study what only a recorded forward tells."""
        with self._stage("study", "recording the model's operators"):
            return self.session.attempt(steps.study_closely, study, order).value()

    def features(self, order: steps.StudyOrder) -> ModelFeatures:
        """The features alone.

        Raises:
            AnalysisError: They could not be computed.
        """
        with self._stage("study", "making inputs, analysing the model"):
            return self.session.attempt(steps.features_of_subject, order).value()

    def verify(self, path: Path, study: steps.Study, tolerance: float | None) -> VerificationReport:
        """Compares a file with the model in the session.

        Raises:
            VerificationError: The file is not right.
        """
        with self._stage("verify", f"checking {path.name}"):
            return self.session.attempt(steps.verify_subject, path, study, tolerance).value()

    def attempts(
        self, study: steps.Study, **options: Any
    ) -> Callable[[Candidate, Limits], Outcome[steps.Verified]]:
        """What makes one attempt in a process of its own and stages its file.

        Args:
            study: What `study` found.
            **options: The remaining fields of `steps.AttemptOrder`.
        """

        def attempt(candidate: Candidate, limits: Limits) -> Outcome[steps.Verified]:
            nonlocal study
            if steps.needs_completion(study, dynamic=candidate.dynamic):
                completed = self.session.attempt(steps.complete_study, study, limits=limits)
                if completed.result is None:
                    return Outcome(error=completed.error, seconds=completed.seconds)
                study = completed.result
            order = steps.AttemptOrder(
                candidate=candidate,
                study=study,
                directory=self.session.folder(str(candidate)),
                metadata=_origin(self.source),
                **options,
            )
            with self._stage("export", f"trying {candidate}"):
                return self.session.attempt(
                    steps.attempt_candidate,
                    order,
                    limits=limits,
                    warm=(candidate.strategy,),
                )

        return attempt

    def companions(self, target: Target) -> Sequence[Path]:
        """Files that go beside the model where the target is a folder."""
        return companion_files(self.source) if target.is_folder else ()

    def weight_files(self) -> Collection[Path]:
        """The files that the model's weights come from, which no export may remove."""
        return checkpoint.weight_paths(self.source.folder) if self.source.folder else ()

    def tell_attempt(self, attempt: Attempt) -> None:
        """Reports a finished attempt."""
        self._tell(Progress(stage="attempt", message=str(attempt), attempt=attempt))

    def _tell(self, event: Progress) -> None:
        if self._progress is not None:
            self._progress(event)

    @contextmanager
    def _stage(self, stage: str, message: str) -> Iterator[None]:
        self._tell(Progress(stage=stage, message=message))
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.timings[stage] = self.timings.get(stage, 0.0) + spent


def model_name(model: Model) -> str:
    """What to call a model and its file: the last part of its id or path, or its class."""
    if isinstance(model, str | os.PathLike):
        return Path(model).expanduser().absolute().name
    return type(model).__name__


def _origin(source: ModelSource) -> dict[str, str]:
    """The entries of a file's metadata that say what it was made from."""
    entries = {"autoexport.source": source.origin if source.kind != "folder" else source.name}
    if source.commit or source.revision:
        entries["autoexport.revision"] = str(source.commit or source.revision)
    if source.random_weights:
        entries["autoexport.weights"] = "random"
    return entries
