"""Every candidate on one model, through the very steps that `auto_export` takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.advice import candidates
from selector.chain import Attempt, ProgressCallback, record_attempt
from selector.errors import InvalidRequestError, StrategyError
from selector.request import DEFAULT_OPSET
from selector.source import ModelSource
from selector.steps import Study, StudyOrder, Verified
from selector.workshop import Workshop
from strategies import registry
from strategies.base import Candidate, first_line
from strategies.isolation import Limits, Outcome

if TYPE_CHECKING:
    from selector.features import ModelFeatures
    from selector.steps import Build
    from selector.workshop import Model

# Of an attempt that failed of a mistake in this code, or in a library past the capture.
BUG_STAGE = "bug"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model that is built in the process that measures it, so that no other holds it.

    Attributes:
        name: What to call it.
        build: Gives the module, and its inputs where they cannot be made up; picklable.
        imports: Modules to import before, which then are there for all later recipes.
    """

    name: str
    build: Build
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate's attempt, and its file's figures where it is right."""

    attempt: Attempt
    verified: Verified | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One model and every candidate that was tried on it.

    Attributes:
        source: Where the model came from.
        study: What was found out about it first.
        results: One for each candidate, in static order.
        timings: Wall seconds of loading, studying and all attempts.
    """

    source: ModelSource
    study: Study
    results: tuple[Measured, ...]
    timings: Mapping[str, float]


def measure(  # noqa: PLR0913 - the arguments of auto_export that matter here
    model: Model | Recipe,
    *,
    inputs: Any = None,
    random_weights: bool = False,
    dynamic: bool | str = "auto",
    strategy: str = "auto",
    limits: Limits | None = None,
    wanted: Callable[[Candidate, Sequence[Attempt]], bool] = lambda _, __: True,
    keep: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Measurement:
    """Tries all candidates of a model, whether others succeed or not.

    Args:
        model: As `auto_export` takes it, or how to build it.
        inputs: As there.
        random_weights: As there.
        dynamic: As there.
        strategy: As there.
        limits: What each candidate may use; building and studying the model as well.
        wanted: Whether to try a candidate, asked for each in static order with the attempts
            made before it.
        keep: Folder in which to stage; None takes the system's for temporary files.
            Files are removed either way.
        progress: As there.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
        ModelLoadError: The model cannot be had.
        StrategyError: Building or studying it took more than the limits allow.
        Exception: What building it raised.
    """
    limits = limits or Limits()

    def opened(stack: ExitStack) -> tuple[Workshop, Study, Callable[..., Outcome[Verified]]]:
        # Many models are measured in one go, and all of them need every strategy.
        workshop = Workshop(keep, progress, warm=registry.names(), imports=_imports(model))
        stack.enter_context(workshop)
        _load(workshop, model, random_weights, limits)
        study = workshop.study(StudyOrder(given=inputs, dynamic=bool(dynamic)), limits)
        run = workshop.attempts(
            study, opset=DEFAULT_OPSET, weights="copy", verify="full", tolerance=None
        )
        return workshop, study, run

    results: list[Measured] = []
    with ExitStack() as stack:
        workshop, study, run = opened(stack)
        for candidate in candidates(study, strategy=strategy, dynamic=dynamic):
            if not wanted(candidate, [result.attempt for result in results]):
                continue
            if not workshop.session.alive:
                # The one before took its session along, which says nothing of this one.
                workshop, _, run = opened(stack)
            outcome = _of_strategy(run(candidate, limits), candidate)
            _discard_files(workshop.session.staging)
            attempt = record_attempt(len(results) + 1, candidate, outcome)
            workshop.tell_attempt(attempt)
            results.append(Measured(attempt=attempt, verified=outcome.result))
        return Measurement(
            source=workshop.source, study=study, results=tuple(results), timings=workshop.timings
        )


def features_of(
    model: Model | Recipe, *, random_weights: bool = False, limits: Limits | None = None
) -> ModelFeatures:
    """The features that `measure` would tell, without any attempt.

    Args:
        model: As `measure` takes it.
        random_weights: As there.
        limits: What building it may take.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
        ModelLoadError: The model cannot be had.
        AnalysisError: The features cannot be computed.
        Exception: What building it raised.
    """
    with Workshop(imports=_imports(model)) as workshop:
        _load(workshop, model, random_weights, limits or Limits())
        return workshop.features(StudyOrder())


def _imports(model: Model | Recipe) -> tuple[str, ...]:
    return model.imports if isinstance(model, Recipe) else ()


def _load(
    workshop: Workshop,
    model: Model | Recipe,
    random_weights: bool,  # noqa: FBT001 - private, and handed on
    limits: Limits,
) -> None:
    if isinstance(model, Recipe):
        workshop.build(model.name, model.build, limits)
    else:
        workshop.load(model, random_weights=random_weights, limits=limits)


def _of_strategy(outcome: Outcome[Verified], candidate: Candidate) -> Outcome[Verified]:
    """The same, where an error that no strategy raised is told as this candidate's failure.

    An export would end there; the candidates after it can be measured all the same.
    """
    error = outcome.error
    if error is None or isinstance(error, StrategyError | InvalidRequestError):
        return outcome
    told = StrategyError(first_line(error), strategy=candidate.strategy, stage=BUG_STAGE)
    told.__cause__ = error
    return replace(outcome, error=told)


def _discard_files(staging: Path) -> None:
    """Removes what an attempt wrote: those of a large model do not fit the disk together."""
    for folder in staging.glob("*[[]*"):
        shutil.rmtree(folder, ignore_errors=True)
