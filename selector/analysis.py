"""Computes `ModelFeatures`: control flow, architecture family, operators and sizes."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from selector import architecture, lowerings, operators
from selector.control_flow import (
    FLOW_KINDS,
    ControlFlow,
    Finding,
    analyze_control_flow,
    classify_line,
    source_line,
    worst_first,
)
from selector.eager import Weights
from selector.errors import AnalysisError
from selector.features import UNREAD, ModelFeatures
from selector.plans import EXAMPLE, EXAMPLE_PLAN, EXTRA_SECONDS, size_plans
from strategies.base import first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from selector.eager import Eager
    from selector.inputs import ExampleInputs

__all__ = [
    "ModelFeatures",
    "analyze_module",
    "features_from_config",
    "read_module",
    "record_module",
]

FINDINGS_KEPT = 10


def analyze_module(
    module: nn.Module,
    config: PretrainedConfig | None,
    inputs: ExampleInputs,
    *,
    prepare: Callable[[], object] = lambda: None,
    eager: Eager | None = None,
) -> ModelFeatures:
    """All features: `read_module`, then `record_module`.

    Args:
        module: In eval mode.
        config: Its config, or None for a plain module.
        inputs: Of which the example case is used.
        prepare: Makes the weights' values available; called before a run that needs them.
        eager: Runs the module at other sizes, unless it has already; None where that is not
            to be tried.

    Raises:
        AnalysisError: As from `record_module`.
    """
    features = read_module(module, config, inputs, eager=eager)
    return record_module(features, module, inputs, prepare=prepare)


def read_module(
    module: nn.Module,
    config: PretrainedConfig | None,
    inputs: ExampleInputs,
    *,
    eager: Eager | None = None,
) -> ModelFeatures:
    """What config, module tree and source tell, and runs that eager PyTorch made already.

    Any branch on values that the source shows counts, even one that the inputs never reach.

    Args:
        module: As `analyze_module` takes it, and so are all others.
        config: Its config.
        inputs: Of which names, axes and sizes are used.
        eager: Runs the module at other sizes.
    """
    flow = analyze_control_flow(module, inputs.names)
    features = _as_read(flow, module, config, inputs.names)
    return replace(
        features,
        axes=tuple(
            sorted({name for axes in inputs.dynamic_axes.values() for name in axes.values()})
        ),
        varying=_varying(eager, inputs, features) if eager else None,
    )


def record_module(
    features: ModelFeatures,
    module: nn.Module,
    inputs: ExampleInputs,
    *,
    prepare: Callable[[], object] = lambda: None,
) -> ModelFeatures:
    """Adds what one forward tells, run without weights where that works.

    The module is left as it was.

    Args:
        features: From `read_module`.
        module: As `analyze_module` takes it, and so are all others.
        inputs: Of which the example case is used.
        prepare: Makes the weights' values available.

    Raises:
        AnalysisError: The forward fails on the example inputs, or this torch keeps its
            operator registries elsewhere.
    """
    flow = analyze_control_flow(module, inputs.names)
    given = {**inputs.make(seed=0), **inputs.constants}
    recording = operators.record_forward(module, given, prepare)
    findings, dependent = _judge(flow, recording)
    return replace(
        features,
        value_dependent=dependent,
        weight_dependent=recording.reads_weights,
        findings=_portable(findings),
        operators=recording.operators,
        unknown_to=lowerings.unknown_operators(recording),
        notes=_notes(flow, recording.note),
    )


def features_from_config(config: PretrainedConfig) -> ModelFeatures:
    """What can be had from a config alone: the model is built without weights and not run.

    Without a run there are no operators, and any branch on values counts, even one that the
    usual inputs never reach.

    Raises:
        AnalysisError: No model can be built from it.
    """
    from transformers import AutoModel  # noqa: PLC0415 - seconds, and a module needs none of it

    try:
        with torch.device("meta"):
            build: Any = AutoModel.from_config
            module: nn.Module = build(config).eval()
    except Exception as error:
        msg = f"no model can be built from a {type(config).__name__}: {first_line(error)}"
        raise AnalysisError(msg) from error
    features = _as_read(analyze_control_flow(module), module, config)
    note = "from the config alone, so the operators are not known"
    return replace(features, notes=(note, *features.notes))


def _as_read(
    flow: ControlFlow,
    module: nn.Module,
    config: PretrainedConfig | None,
    names: Collection[str] = (),
) -> ModelFeatures:
    return ModelFeatures(
        model_type=getattr(config, "model_type", None),
        architecture=type(module).__name__,
        config_digest=architecture.config_digest(config),
        **asdict(architecture.describe(module, config, names)),
        value_dependent=any(item.kind in FLOW_KINDS for item in flow.findings),
        control_flow=flow.counts,
        findings=_portable(flow.findings),
        notes=_notes(flow),
    )


def _varying(
    eager: Eager, inputs: ExampleInputs, features: ModelFeatures
) -> tuple[str, ...] | None:
    """The sizes at which forward calls another number of torch functions than on the example."""
    found: dict[str, int] = {}
    spent = 0.0
    for plan in (EXAMPLE_PLAN, *size_plans(inputs, size_dependent=features.size_dependent)):
        if plan.extra and spent > EXTRA_SECONDS:
            break
        # A model may refuse any sizes; verification says so.
        with contextlib.suppress(Exception):
            tensors = inputs.make(seed=plan.seed, sizes=plan.sizes, style=plan.style)
            answer = eager.answer(
                tensors, inputs.constants, seed=plan.seed, real=eager.weights is not Weights.NEVER
            )
            found[plan.label] = answer.calls
            spent += answer.seconds
    usual = found.pop(EXAMPLE, None)
    if usual is None or not found:
        return None
    return tuple(label for label, calls in found.items() if calls != usual)


def _judge(flow: ControlFlow, recording: operators.Recording) -> tuple[tuple[Finding, ...], bool]:
    """The findings to show, and whether a branch or loop on values was really taken.

    The source alone names branches that these inputs never reach; the run alone does not
    know what a value that was read is used for. Where the run could not be finished, what
    the source says counts.
    """
    if recording.complete and not recording.reads:
        shown = [item for item in flow.findings if item.kind not in FLOW_KINDS]
        return tuple(shown), False
    taken = [item for item in flow.findings if item.kind in FLOW_KINDS]
    if recording.complete:
        taken = [item for item in taken if item.scalar or _was_read(item, recording.reads)]
    taken += _found_by_run(recording.reads, taken)
    others = [item for item in flow.findings if item.kind not in FLOW_KINDS]
    return tuple(worst_first([*taken, *others])), bool(taken)


def _was_read(finding: Finding, reads: Iterable[tuple[operators.Place, ...]]) -> bool:
    return any(
        file == finding.file and finding.line <= line <= finding.end_line
        for places in reads
        for file, line in places
    )


def _found_by_run(
    reads: Iterable[tuple[operators.Place, ...]], known: Iterable[Finding]
) -> list[Finding]:
    """Branches and loops that the run came through and the source did not show."""
    seen = {(item.file, line) for item in known for line in range(item.line, item.end_line + 1)}
    found: dict[operators.Place, Finding] = {}
    for places in reads:
        if any(place in seen for place in places):
            continue
        for file, line in places:
            kind = classify_line(file, line)
            if kind in FLOW_KINDS:
                found[file, line] = Finding(
                    kind=kind,
                    file=file,
                    line=line,
                    end_line=line,
                    function="",
                    source=source_line(file, line),
                )
    return list(found.values())


def _portable(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The first findings, their files named from the folder that Python found them in."""
    roots = sorted((f"{root}{os.sep}" for root in sys.path if root), key=len, reverse=True)

    def inside(file: str) -> str:
        found = next((root for root in roots if file.startswith(root)), None)
        return file.removeprefix(found) if found else os.path.basename(file)  # noqa: PTH119 - a text, not a path in use

    shown = itertools.islice(findings, FINDINGS_KEPT)
    return tuple(replace(item, file=inside(item.file)) for item in shown)


def _notes(flow: ControlFlow, note: str | None = None) -> tuple[str, ...]:
    notes = [note] if note else []
    if flow.unread:
        notes.append(f"{UNREAD} {', '.join(flow.unread)}")
    return tuple(notes)
