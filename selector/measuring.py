"""Every candidate on one model, through the very steps that `auto_export` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.api import candidates
from selector.chain import Attempt, Budget, ProgressCallback, record_attempt
from selector.request import DEFAULT_OPSET
from selector.source import ModelSource
from selector.steps import Study, StudyOrder, Verified
from selector.workshop import Workshop
from strategies import registry
from strategies.base import Candidate

if TYPE_CHECKING:
    from selector.workshop import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate's attempt, and its file's figures where it is right."""

    attempt: Attempt
    verified: Verified | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One model and every candidate that was tried on it."""

    source: ModelSource
    study: Study
    results: tuple[Measured, ...]


def measure(  # noqa: PLR0913 - the arguments of auto_export that matter here
    model: Model,
    *,
    inputs: Any = None,
    random_weights: bool = False,
    dynamic: bool | str = "auto",
    strategy: str = "auto",
    attempt_timeout: float | None = None,
    wanted: Callable[[Candidate, Sequence[Attempt]], bool] = lambda _, __: True,
    keep: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Measurement:
    """Tries all candidates of a model, whether others succeed or not.

    Args:
        model: As `auto_export` takes it.
        inputs: As there.
        random_weights: As there.
        dynamic: As there.
        strategy: As there.
        attempt_timeout: Wall seconds for each candidate.
        wanted: Whether to try a candidate, asked for each in static order with the attempts
            made before it.
        keep: Folder in which to stage; None takes the system's for temporary files.
            Files are removed either way.
        progress: As there.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
        ModelLoadError: The model cannot be had.
    """
    # Many models are measured in one go, and all of them need every strategy.
    with Workshop(keep, progress, warm=registry.names()) as workshop:
        workshop.load(model, random_weights=random_weights)
        study = workshop.study(StudyOrder(given=inputs, dynamic=bool(dynamic)))
        run = workshop.attempts(
            study, opset=DEFAULT_OPSET, weights="copy", verify="full", tolerance=None
        )
        limits = Budget(attempt_seconds=attempt_timeout).limits()
        results: list[Measured] = []
        for candidate in candidates(study, strategy=strategy, dynamic=dynamic):
            if not wanted(candidate, [result.attempt for result in results]):
                continue
            outcome = run(candidate, limits)
            attempt = record_attempt(len(results) + 1, candidate, outcome)
            workshop.tell_attempt(attempt)
            results.append(Measured(attempt=attempt, verified=outcome.result))
    return Measurement(source=workshop.source, study=study, results=tuple(results))
