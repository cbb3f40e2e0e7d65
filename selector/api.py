"""`auto_export`: the whole way from a model to a verified, tagged ONNX file on one screen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.advice import advise
from selector.chain import Attempt, Budget, ChainResult, ProgressCallback, run_chain
from selector.publishing import plan_target, publish
from selector.ranking import prepare_ranker
from selector.request import DEFAULT_OPSET, check_options
from selector.source import ModelSource
from selector.steps import Study, StudyOrder, Verified
from selector.workshop import Workshop, model_name
from strategies.base import Candidate
from strategies.hierarchy import Hierarchy

if TYPE_CHECKING:
    from selector.features import ModelFeatures
    from selector.ranking import Ranking
    from selector.verification import VerificationReport
    from selector.workshop import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """A verified file, and how it came about.

    Attributes:
        path: The ONNX file.
        file_bytes: Bytes of it and of the files with its weights.
        candidate: The strategy and options that made it.
        features: What the ranking was based on; None where the analysis failed.
        ranking: The order of candidates with its reasons.
        attempts: Everything that was tried, in order.
        verification: What was checked, with the largest error per output.
        hierarchy: The file's module tree.
        timings: Wall seconds of the stages.
        notes: What the user should know, one sentence each.
        source: Where the model came from.
    """

    path: Path
    file_bytes: int
    candidate: Candidate
    features: ModelFeatures | None
    ranking: Ranking
    attempts: tuple[Attempt, ...]
    verification: VerificationReport
    hierarchy: Hierarchy
    timings: Mapping[str, float]
    notes: tuple[str, ...]
    source: ModelSource


def auto_export(  # noqa: PLR0913 - every argument is one thing a user may want to decide
    model: Model,
    output: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    inputs: Any = None,
    dynamic: bool | str = "auto",
    objective: str = "time",
    strategy: str = "auto",
    opset: int | None = None,
    tolerance: float | None = None,
    verify: str = "full",
    time_budget: float | None = None,
    attempt_timeout: float | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
    weights: str = "copy",
    ranker: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> ExportResult:
    """Exports a model to a verified ONNX file that keeps its module hierarchy.

    Args:
        model: Hub id, checkpoint folder, `nn.Module`, or, with `random_weights`, a
            transformers model type such as "bert".
        output: File ending in `.onnx`, or folder that gets `model.onnx` with config,
            tokenizer and preprocessor beside it. By default `<name>.onnx` here.
        task: Hub task name that chooses the model class, `text-classification` and such.
        inputs: Overrides of the example inputs: forward's parameter name to tensor,
            array, scalar or `ShapeDtype`; for positional use a tuple or one tensor.
        dynamic: "auto" prefers dynamic axes and notes when the file is static, True
            accepts nothing less, False asks for fixed shapes.
        objective: What the ranking minimises: `time`, `attempts`, `latency`, `size` or
            `coverage`.
        strategy: "auto", or the only strategy to try.
        opset: ONNX operator set, 18 to 20; 18 by default.
        tolerance: Largest error allowed, relative to an output's magnitude; by default
            by the output's dtype.
        verify: "full"; "light", for models too large to run, checks the file's structure
            and the numbers of a copy with few layers and random weights; "off" nothing.
        time_budget: Seconds for all attempts together.
        attempt_timeout: Seconds for each attempt; by default many times what the ranker
            expects of it, at least two minutes.
        revision: Branch, tag or commit on the Hub.
        token: Hub token; by default the one `huggingface_hub` finds.
        trust_remote_code: Whether code in the model's repository may run.
        random_weights: Whether to make up the weights of a model that has none.
        weights: Where they go: "copy" puts a checkpoint's own files beside the model and
            writes other weights to one data file, "link" makes hard links instead of
            copies, "embed" puts all of them into the model's file, up to 2 GB.
        ranker: Trained ranker to use instead of the user's own or the shipped one.
        progress: Called with an event when a stage begins and when an attempt ends.

    Raises:
        InvalidRequestError: What was asked for cannot be.
        ModelLoadError: The model cannot be had.
        AllStrategiesFailedError: No candidate gave a verified file.
    """
    check_options(
        strategy=strategy, dynamic=dynamic, objective=objective, opset=opset, verify=verify,
        tolerance=tolerance, time_budget=time_budget, attempt_timeout=attempt_timeout,
        weights=weights, ranker=ranker,
    )  # fmt: skip
    budget = Budget.starting_now(time_budget, attempt_timeout)
    target = plan_target(output, model_name(model))
    with Workshop(target.staging_parent, progress) as workshop:
        workshop.load(
            model, revision=revision, token=token, random_weights=random_weights,
            trust_remote_code=trust_remote_code, task=task, real=verify == "full",
            meanwhile=lambda: prepare_ranker(ranker),
        )  # fmt: skip
        advice = advise(
            workshop, StudyOrder(task=task, given=inputs, dynamic=bool(dynamic), verify=verify),
            strategy=strategy, dynamic=dynamic, objective=objective, ranker=ranker,
        )  # fmt: skip
        order = advice.first()
        chain = run_chain(
            order.candidates,
            workshop.attempts(
                advice.study, opset=opset or DEFAULT_OPSET, weights=weights, verify=verify,
                tolerance=tolerance, data_stem=target.data_stem,
            ),
            budget=budget,
            time_limits={item.candidate: item.time_limit for item in order.order},
            on_attempt=lambda attempt: _ended(attempt, advice.study, workshop, verify),
            reconsider=advice.after,
        )  # fmt: skip
        path = publish(
            chain.value.artifact.path.parent,
            target,
            workshop.companions(target),
            spare=workshop.weight_files(),
        )
    return _result(path, chain, order, advice.study, workshop)


def _ended(attempt: Attempt, study: Study, workshop: Workshop, verify: str) -> None:
    workshop.tell_attempt(attempt)
    if verify == "full":
        from selector import experience  # noqa: PLC0415 - pydantic, while nothing waits for it

        experience.keep(study.features, attempt)


def _result(
    path: Path,
    chain: ChainResult[Verified],
    order: Ranking,
    study: Study,
    workshop: Workshop,
) -> ExportResult:
    artifact = chain.value.artifact
    notes = [*workshop.notes, *study.notes, *artifact.notes]
    if order.note:
        notes.append(order.note)
    if not chain.candidate.dynamic and study.dynamic_axes:
        notes.append("the file is static: it runs at the example inputs' shapes only")
    if chain.value.verification.level == "off":
        notes.append("the file was not verified")
    if chain.value.verification.level == "light":
        notes += chain.value.verification.notes
    return ExportResult(
        path=path,
        file_bytes=artifact.file_bytes,
        candidate=chain.candidate,
        features=study.features,
        ranking=order,
        attempts=chain.attempts,
        verification=chain.value.verification,
        hierarchy=chain.value.hierarchy,
        timings={
            **workshop.timings,
            "study.analysis": study.seconds,
            **{f"export.{stage}": seconds for stage, seconds in artifact.seconds.items()},
        },
        notes=tuple(notes),
        source=workshop.source,
    )
