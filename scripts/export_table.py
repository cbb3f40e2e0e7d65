"""Exports every model of `scripts/zoo.py` with `auto_export` and writes the table of results.

    python -m scripts.export_table --out docs

Writes `models.json` and `models.md`. Models are tiny and their weights random, so the
seconds tell what a small model costs in a warm process, and nothing about large ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.plain_modules import PLAIN
from scripts.zoo import TINY, tiny_model
from selector import AllStrategiesFailedError, ExportError, ExportResult, auto_export

PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def main() -> None:
    """Exports one model after the other; a model that fails stands in the table too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--models", nargs="*", default=[*TINY, *PLAIN])
    options = parser.parse_args()
    rows = []
    for name, model, inputs in _models(options.models):
        rows.append(_row(name, model, inputs))
        print(_line(rows[-1]), flush=True)
    report = {"environment": _environment(), "models": rows}
    (options.out / "models.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "models.md").write_text(_markdown(report))


def _models(names: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for name in names:
        if name in PLAIN:
            module, inputs = PLAIN[name]()
            yield name, module, inputs
        else:
            yield name, tiny_model(name), None


def _row(name: str, model: Any, inputs: Any) -> dict[str, Any]:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = auto_export(model, f"{folder}/{name}.onnx", inputs=inputs, attempt_timeout=180)
        except AllStrategiesFailedError as error:
            attempts = [str(attempt) for attempt in error.attempts]
            return {"model": name, "verified": False, "attempts": attempts}
        except ExportError as error:
            return {"model": name, "verified": False, "attempts": [str(error)]}
        return _facts(name, result, time.perf_counter() - started)


def _facts(name: str, result: ExportResult, seconds: float) -> dict[str, Any]:
    report = result.verification
    axes = {axis for names in report.dynamic_axes.values() for axis in names.values()}
    errors = [output.max_rel_error for output in report.outputs if output.max_rel_error is not None]
    return {
        "model": name,
        "verified": report.ok,
        "candidate": str(result.candidate),
        "dynamic_axes": sorted(axes),
        "attempts": [str(attempt) for attempt in result.attempts],
        "export_seconds": round(sum(v for k, v in result.timings.items() if "export." in k), 2),
        "total_seconds": round(seconds, 1),
        "max_relative_error": max(errors, default=0.0),
        "nodes": result.hierarchy.nodes,
        "traced_share": round(result.hierarchy.traced / max(result.hierarchy.nodes, 1), 3),
        "trained_ranking": result.ranking.trained,
    }


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in PACKAGES},
    }


def _markdown(report: dict[str, Any]) -> str:
    rows, facts = report["models"], report["environment"]
    right = [row for row in rows if row["verified"]]
    dynamic = [row for row in right if row["dynamic_axes"]]
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES)
    lines = [
        "# What `auto_export` makes of the zoo",
        "",
        f"{len(right)} of {len(rows)} models have a verified file, {len(dynamic)} of them with",
        "dynamic axes that held at another size. Transformers models are tiny, of the base class,",
        "with random weights. Export is capture to saved file of the successful attempt, warm;",
        "total is the whole call with loading, analysis, failed attempts and verification. Errors",
        "are relative to each output's magnitude, on inputs the capture did not see.",
        "",
        f"{facts['machine']}; Python {facts['python']}, {versions}.",
        "Made by `scripts/export_table.py`.",
        "",
        "| model | candidate | dynamic axes | attempts | export s | total s | error | traced |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
        "",
        "## Attempts that failed",
        "",
        *(
            f"- **{row['model']}** {attempt}"
            for row in rows
            for attempt in row["attempts"]
            if ": succeeded" not in attempt
        ),
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    if not row["verified"]:
        return f"| {row['model']} | none | | {len(row['attempts'])} | | | | |"
    return (
        f"| {row['model']} | {row['candidate']} | {', '.join(row['dynamic_axes'])} | "
        f"{len(row['attempts'])} | {row['export_seconds']} | {row['total_seconds']} | "
        f"{row['max_relative_error']:.0e} | {row['traced_share']:.0%} |"
    )


if __name__ == "__main__":
    main()
