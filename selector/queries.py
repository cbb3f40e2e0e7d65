"""What can be asked of a model without exporting it: `analyze`, `rank` and `verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.advice import advise
from selector.chain import ProgressCallback
from selector.errors import InvalidRequestError
from selector.ranking import prepare_ranker
from selector.request import check_options
from selector.steps import StudyOrder
from selector.workshop import Workshop

if TYPE_CHECKING:
    from selector.features import ModelFeatures
    from selector.ranking import Ranking
    from selector.verification import VerificationReport
    from selector.workshop import Model


def analyze(
    model: Model,
    *,
    task: str | None = None,
    inputs: Any = None,
    progress: ProgressCallback | None = None,
    **source: Any,
) -> ModelFeatures:
    """Computes the features that the ranking is based on.

    Args:
        model: As `auto_export` takes it.
        task: As there.
        inputs: As there.
        progress: As there.
        **source: `revision`, `token`, `trust_remote_code`, `random_weights`, as there.

    Raises:
        InvalidRequestError: Inputs cannot be made up.
        ModelLoadError: The model cannot be had.
        AnalysisError: The features could not be computed.
    """
    with Workshop(progress=progress) as workshop:
        workshop.load(model, task=task, real=False, **source)
        return workshop.features(StudyOrder(task=task, given=inputs))


def rank(  # noqa: PLR0913 - the arguments of auto_export that matter here
    model: Model,
    *,
    task: str | None = None,
    inputs: Any = None,
    dynamic: bool | str = "auto",
    objective: str = "time",
    strategy: str = "auto",
    ranker: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    **source: Any,
) -> Ranking:
    """Says what `auto_export` would try, in what order, and why; nothing is exported.

    Args:
        model: As `auto_export` takes it, and so are all others.
        task: The task that chooses the model class.
        inputs: Overrides of the example inputs.
        dynamic: "auto", True or False.
        objective: What the order minimises.
        strategy: "auto", or the only strategy to rank.
        ranker: Trained ranker to use instead of the shipped one.
        progress: Called when a stage begins.
        **source: `revision`, `token`, `trust_remote_code`, `random_weights`.

    Raises:
        InvalidRequestError: What was asked for cannot be.
        ModelLoadError: The model cannot be had.
    """
    check_options(strategy=strategy, objective=objective, dynamic=dynamic, ranker=ranker)
    with Workshop(progress=progress) as workshop:
        workshop.load(
            model,
            task=task,
            real=False,
            meanwhile=lambda: prepare_ranker(ranker),
            **source,
        )
        advice = advise(
            workshop,
            StudyOrder(task=task, given=inputs, dynamic=bool(dynamic), verify="off"),
            strategy=strategy,
            dynamic=dynamic,
            objective=objective,
            ranker=ranker,
        )
        return advice.first()


def verify(  # noqa: PLR0913 - the arguments of auto_export that matter here
    file: str | os.PathLike[str],
    against: Model,
    *,
    task: str | None = None,
    inputs: Any = None,
    tolerance: float | None = None,
    progress: ProgressCallback | None = None,
    **source: Any,
) -> VerificationReport:
    """Checks an ONNX file that autoexport wrote against the PyTorch model it came from.

    Args:
        file: The ONNX file.
        against: The model, as `auto_export` takes it.
        task: As there.
        inputs: As there.
        tolerance: As there.
        progress: As there.
        **source: `revision`, `token`, `trust_remote_code`, `random_weights`, as there.

    Raises:
        InvalidRequestError: The file does not exist.
        ModelLoadError: The model cannot be had.
        VerificationError: The file is not right; `.report` says where.
    """
    check_options(tolerance=tolerance)
    path = Path(file)
    if not path.is_file():
        raise InvalidRequestError(f"there is no file {path}")
    with Workshop(progress=progress) as workshop:
        workshop.load(against, task=task, **source)
        study = workshop.study(StudyOrder(task=task, given=inputs))
        return workshop.verify(path.absolute(), study, tolerance)
