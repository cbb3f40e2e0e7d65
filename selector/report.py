"""What came out, as JSON for programs and as a view for the terminal."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selector.module_tree import ModuleNode, build_tree, visible_rows

if TYPE_CHECKING:
    from selector.api import ExportResult
    from selector.chain import Attempt
    from selector.features import ModelFeatures
    from selector.ranking import RankedCandidate, Ranking
    from selector.retraining import ScoreCard
    from selector.scoring import Interval
    from selector.source import ModelSource
    from selector.verdict import VerificationReport
    from strategies.hierarchy import Hierarchy

OUTCOME_STYLES = {"succeeded": "green", "unavailable": "dim"}
LISTED = 12
KILO = 1000.0


# JSON


def to_json(value: object) -> dict[str, Any]:
    """A result of the library as one strict JSON object.

    Args:
        value: A dataclass or mapping.

    Raises:
        TypeError: It is neither.
    """
    converted = jsonable(value)
    if not isinstance(converted, dict):
        raise TypeError(f"a JSON object needs a dataclass or mapping, not {type(value).__name__}")
    return converted


def error_to_json(error: BaseException, exit_code: int) -> dict[str, Any]:
    """What the command prints with `--json` where it failed; `attempts` is always there."""
    body = jsonable(error) | {"exit_code": exit_code}
    return {"error": {"attempts": []} | body}


def dumps(value: Mapping[str, Any]) -> str:
    """Strict JSON on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def jsonable(value: object) -> Any:
    """Converts dataclasses, errors, paths, arrays and containers to what JSON knows.

    Numbers that JSON lacks become the strings `NaN`, `Infinity` and `-Infinity`, which
    `float` reads back; whatever else is unknown becomes its `str`.
    """
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _jsonable_float(value)
    if isinstance(value, BaseException):
        return _jsonable_error(value)
    if callable(getattr(value, "tolist", None)):
        return jsonable(value.tolist())  # type: ignore[attr-defined]  # numpy's or torch's
    return _jsonable_container(value)


def _jsonable_container(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: jsonable(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return [jsonable(item) for item in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value)


def _jsonable_float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _jsonable_error(error: BaseException) -> dict[str, Any]:
    body = {"type": type(error).__name__, "message": str(error)}
    body |= {name: jsonable(item) for name, item in vars(error).items() if name[:1] != "_"}
    cause = error.__cause__
    return body if cause is None else body | {"cause": f"{type(cause).__name__}: {cause}"}


# Terminal


def render_export(result: ExportResult) -> RenderableType:
    """The file, how it was made, what was checked, and every attempt."""
    facts = {
        "file": f"{path_text(result.path)} ({size_text(result.file_bytes)})",
        "model": source_text(result.source),
        "made by": str(result.candidate),
        **_verification_facts(result.verification),
        "hierarchy": _hierarchy_fact(result.hierarchy),
        "time": timings_text(result.timings),
    }
    return Group(_grid(facts), *_notes(result.notes), "", render_attempts(result.attempts))


def render_attempts(attempts: Iterable[Attempt]) -> Table:
    """One line per attempt, in the order made."""
    table = _table("#", "candidate", "outcome", "seconds", "memory", "reason", right=(0, 3, 4))
    for attempt in attempts:
        table.add_row(
            str(attempt.number),
            escape(str(attempt.candidate)),
            Text(attempt.outcome, style=OUTCOME_STYLES.get(attempt.outcome, "red")),
            f"{attempt.seconds:.1f}",
            size_text(attempt.peak_rss_bytes),
            escape(reason_text(attempt.error)),
        )
    return table


def render_ranking(ranking: Ranking) -> RenderableType:
    """What would be tried, in what order, and why."""
    table = _table("#", "candidate", "success", "seconds", "why", right=(0, 2, 3))
    for number, entry in enumerate(ranking.order, start=1):
        table.add_row(
            str(number),
            escape(str(entry.candidate)),
            _number(entry.success_probability, "{:.0%}"),
            _number(entry.expected_seconds, "{:.1f}"),
            escape("\n".join(_why(entry))),
        )
    order = "order learned from the baseline" if ranking.trained else "static order"
    note = f": {ranking.note}" if ranking.note else ""
    return Group(Text(order + note, style="" if ranking.trained else "yellow"), "", table)


def _why(entry: RankedCandidate) -> Iterator[str]:
    yield from entry.reasons
    if entry.speaks_for:
        yield f"for it: {', '.join(entry.speaks_for)}"
    if entry.speaks_against:
        yield f"against it: {', '.join(entry.speaks_against)}"


def render_features(features: ModelFeatures) -> RenderableType:
    """What kind of model it is, what its forward does, and which operators are in the way."""
    operators = sorted(features.operators.items(), key=lambda item: (-item[1], item[0]))
    facts = {
        "architecture": features.architecture,
        "type": f"{features.model_type or 'plain module'}, {features.family}",
        "inputs": ", ".join(features.modalities),
        "size": f"{features.depth} layers of width {features.width}, {features.modules} modules",
        "parameters": f"{features.parameters:,} ({size_text(features.parameter_bytes)})",
        "control flow": _fact_text(dict(features.control_flow)),
        "on values": "yes" if features.value_dependent else "no",
        "operators": _fact_text([f"{name} {count}" for name, count in operators]),
        **{f"unknown to {name}": ", ".join(them) for name, them in features.unknown_to.items()},
    }
    table = _table("depends on values", "kind", "source")
    for finding in features.findings:
        table.add_row(escape(finding.place), finding.kind, escape(finding.source.strip()))
    parts: list[RenderableType] = [_grid({name: text for name, text in facts.items() if text})]
    parts += _notes(features.notes)
    if features.findings:
        parts += ["", table]
    return Group(*parts)


def render_verification(report: VerificationReport) -> RenderableType:
    """The verdict, what was checked, and the error of every output."""
    table = _table(
        *("output", "type", "shape", "absolute", "relative", "allowed", "status"),
        right=(3, 4, 5),
    )
    for output in report.outputs:
        table.add_row(
            escape(output.name),
            output.dtype,
            "x".join(str(size) for size in output.shape),
            _number(output.max_abs_error, "{:.2g}"),
            _number(output.max_rel_error, "{:.2g}"),
            f"{output.tolerance:.2g}",
            escape(f"{output.status}: {output.reason}" if output.reason else output.status),
        )
    facts = {"verdict": "right" if report.ok else f"wrong: {report.reason}"}
    if report.latency_seconds is not None:
        facts["latency"] = f"{report.latency_seconds * KILO:.2f} ms in ONNX Runtime"
    return Group(_grid(facts | _verification_facts(report)), *_notes(report.notes), "", table)


def render_hierarchy(hierarchy: Hierarchy, depth: int = 3) -> RenderableType:
    """The module tree with node counts and parameter bytes of whole subtrees.

    Args:
        hierarchy: As read from a file.
        depth: How many levels below the root to show.
    """
    table = _table("module", "class", "calls", "nodes", "parameters", right=(2, 3, 4))
    for indent, node in visible_rows(build_tree(hierarchy.modules), depth):
        margin = "  " * indent
        if isinstance(node, ModuleNode):
            name = Text(margin + (node.name or "(model)"), style="" if node.name else "bold")
            kind = Text(node.class_name.rpartition(".")[2], style="cyan")
            calls = str(node.calls) if node.calls else ""
            table.add_row(name, kind, calls, str(node.nodes), size_text(node.parameter_bytes))
        else:
            table.add_row(Text(f"{margin}… {node} more", style="dim"))
    metadata = {
        key.removeprefix("autoexport."): _metadata_text(text)
        for key, text in hierarchy.metadata.items()
    }
    return Group(_grid({"hierarchy": _hierarchy_fact(hierarchy), **metadata}), "", table)


def render_card(card: ScoreCard) -> RenderableType:
    """What a ranker was fitted on, and what it costs on families that it was not fitted on."""
    scores = card.scores
    facts = {
        "ranker": path_text(card.path),
        "fitted on": f"{card.records} records: {card.models} models, {card.candidates} candidates",
        "right": f"{card.success_rate:.1%} of them",
        "from": ", ".join(item["file"] for item in card.training),
    }
    if scores.brier is not None:
        facts["probability"] = (
            f"Brier score {scores.brier:.3f} (rates alone {scores.brier_of_rates:.3f}), "
            f"calibration error {scores.calibration_error:.3f}"
        )
    if card.against_champion is not None:
        more = card.against_champion
        facts["in use before"] = (
            f"costs {-more.mean:+.2f} s per model against this one "
            f"({-more.high:+.2f} to {-more.low:+.2f})"
        )
    table = _table(
        *("on held-out families", "seconds", "first right", "attempts", "remaining gap"),
        right=(1, 2, 3, 4),
    )
    for name, policy in scores.policies.items():
        table.add_row(
            name,
            _interval_text(policy.seconds),
            f"{policy.first_right.mean:.0%}",
            f"{policy.attempts.mean:.2f}",
            _interval_text(policy.remaining_gap),
        )
    shown: list[RenderableType] = ["", table] if scores.policies else []
    return Group(_grid(facts), *_notes(card.notes), *shown)


def _interval_text(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"


# Pieces


def size_text(count: int | None) -> str:
    """Bytes in decimal units, as disk sizes are: `90.9 MB`."""
    if count is None:
        return ""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= KILO and len(units) > 1:
        amount, units = amount / KILO, units[1:]
    return f"{count} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def path_text(path: Path) -> str:
    """A path as one would type it: relative to the working folder if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def reason_text(error: BaseException | None) -> str:
    """Why an attempt failed, on one line, without what the line says already."""
    if error is None:
        return ""
    stage, reason = getattr(error, "stage", ""), getattr(error, "reason", str(error))
    hint = getattr(error, "hint", None)
    text = f"{stage}: {reason}" if stage else str(reason)
    return " ".join((f"{text} ({hint})" if hint else text).split())


def source_text(source: ModelSource) -> str:
    """Where the model came from: origin, revision, and a word about random weights."""
    revision = source.commit or source.revision
    at_revision = f" @ {revision[:12]}" if revision else ""
    random = ", random weights" if source.random_weights else ""
    origin = path_text(Path(source.origin)) if source.kind == "folder" else source.origin
    return f"{origin}{at_revision} ({source.kind}{random})"


def timings_text(timings: Mapping[str, float]) -> str:
    """Seconds in total and by stage; `export.save` is part of `export`."""
    stages: dict[str, list[str]] = {name: [] for name in timings if "." not in name}
    for name, seconds in timings.items():
        stage, _, part = name.partition(".")
        if part:
            stages.setdefault(stage, []).append(f"{part} {seconds:.1f}")
    texts = []
    for stage, parts in stages.items():
        seconds_text = f" {timings[stage]:.1f}" if stage in timings else ""
        texts.append(stage + seconds_text + (f" ({', '.join(parts)})" if parts else ""))
    total = sum(seconds for name, seconds in timings.items() if "." not in name)
    return f"{total:.1f} s: {', '.join(texts)}"


def _verification_facts(report: VerificationReport) -> dict[str, str]:
    if report.level == "off":
        return {"verified": "no, as asked"}
    errors = [item.max_rel_error for item in report.outputs if item.max_rel_error is not None]
    largest = f"largest relative error {max(errors):.1e}" if errors else "no number compared"
    outputs = _plural(len(report.outputs), "output")
    cases = _plural(len(report.cases), "set")
    subject = "lightly: a shallow copy's " if report.level == "light" else ""
    facts = {
        "verified": f"{subject}{outputs} on {cases} of unseen inputs, {largest}, "
        f"{report.seconds:.1f} s"
    }
    unverifiable = [item.name for item in report.outputs if item.status == "unverifiable"]
    if unverifiable:
        facts["unverifiable"] = ", ".join(unverifiable)
    if report.optimizer_fault:
        right = f"right up to level {report.optimizer_level!r}"
        facts["optimiser"] = f"ONNX Runtime's optimiser breaks this file; {right}"
    facts["dynamic axes"] = axes_text(report.dynamic_axes)
    if report.frozen_axes:
        facts["fixed axes"] = ", ".join(report.frozen_axes)
    return facts


def axes_text(axes: Mapping[str, Mapping[int, str]]) -> str:
    """Inputs that share their dynamic axes on one line: `input_ids, mask: 0 batch_size`."""
    groups: dict[str, list[str]] = {}
    for name, named in axes.items():
        if named:
            text = ", ".join(f"{index} {axis}" for index, axis in named.items())
            groups.setdefault(text, []).append(name)
    return "\n".join(f"{', '.join(names)}: {text}" for text, names in groups.items()) or "none"


def _notes(notes: Iterable[str]) -> list[Text]:
    return [Text(f"note: {note}", style="yellow") for note in notes]


def _metadata_text(text: str) -> str:
    """An entry of the file as it is; of a JSON object only what fits on a line."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    return _fact_text(
        {key: item for key, item in value.items() if not isinstance(item, dict | list)}
    )


def _hierarchy_fact(hierarchy: Hierarchy) -> str:
    share = hierarchy.traced / hierarchy.nodes if hierarchy.nodes else 0.0
    modules = sum(1 for entry in hierarchy.modules if entry.nodes)
    return f"{hierarchy.nodes} nodes in {modules} modules, {share:.1%} attributed by the capture"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _fact_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = [_inline(item) for item in value[:LISTED]]
        more = [f"… {len(value) - LISTED} more"] if len(value) > LISTED else []
        return ("\n" if any(isinstance(item, dict) for item in value) else ", ").join(shown + more)
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_inline(item)}" for key, item in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _grid(facts: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in facts.items():
        grid.add_row(name, escape(text))
    return grid


def _table(*headers: str, right: tuple[int, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        justify = "right" if index in right else "left"
        whole = header == "candidate"
        table.add_column(header, justify=justify, overflow="fold", no_wrap=whole)  # type: ignore[arg-type]
    return table
