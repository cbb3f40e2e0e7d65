"""The benchmark's figures as Markdown: a table per section, means, fits, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts import benchmark_plan as plan

Figures = Mapping[str, Any]
NOTHING = "-"


def markdown(summary: Figures) -> str:
    """The whole report; sections that have not run are left out."""
    parts = [*_head(summary["environment"])]
    if summary["export"]["models"]:
        parts += ["## Models at real size", "", *_compared(summary["export"], summary["models"])]
    if summary["7b"]["models"]:
        parts += ["## A layout of 7 billion parameters", "", *_seven(summary["7b"])]
    if summary["scaling"]["layers"]["rows"] or summary["scaling"]["width"]["rows"]:
        parts += ["## Growth", "", *_growth(summary["scaling"])]
    if summary["verified"]:
        parts += ["## What verification adds", "", *_verified(summary["verified"])]
    if summary["command"]:
        parts += ["## The command line, cold", "", *_command(summary["command"])]
    if summary["tiny"]["models"]:
        forked = "A run's process is forked from one that has imported what its side imports."
        parts += ["## Tiny models", "", forked, ""]
        parts += _compared(summary["tiny"], summary["models"])
    return "\n".join(parts).rstrip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def _head(environment: Figures) -> Iterator[str]:
    yield from (
        "# Benchmark",
        "",
        "![CPU seconds, memory, and growth](benchmark.png)",
        "",
        "Every run is a process of its own, on the same checkpoint, with the same inputs and",
        "dynamic axes; the sides take turns. Figures are medians, ratios are medians over pairs",
        "of runs. The step that is measured begins with a loaded model (for autoexport a mapped",
        "one) and ends with a file whose weights are in place; autoexport's is made by",
        "`usage_based[dynamic,void]`, without verification. Imports are done before it.",
        "Memory is the process' largest resident memory, imports, loading and code included.",
        "",
    )
    if environment:
        packages = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
        versions = ", ".join(f"{name} {environment.get(name, '?')}" for name in packages)
        yield (
            f"{environment['cpu']}, {environment['cores']} cores, "
            f"{environment['ram_bytes'] / 1e9:.0f} GB, {environment['system']}; "
            f"Python {environment['python']}, {versions}. Made by `scripts/benchmark.py`."
        )
        yield ""


# Sides held against ours


def _compared(section: Figures, facts: Figures) -> Iterator[str]:
    sides = section["sides"]
    counts = {item["rounds"] for found in section["models"].values() for item in found.values()}
    pairs = "-".join(dict.fromkeys(map(str, (min(counts - {0}), max(counts)))))
    yield "CPU seconds (peak MB), and how many times ours that is; one thread each;"
    yield f"medians of {pairs} pairs."
    yield ""
    rows = [_row(_sized(model, facts), found, sides) for model, found in section["models"].items()]
    yield from table(["model", *(plan.TITLES[side] for side in sides)], rows)
    yield ""
    yield from _means(section)
    yield from _failures(section["models"])


def _sized(model: str, facts: Figures) -> str:
    count = facts.get(model, {}).get("parameters", 0)
    name = model.removeprefix("tiny-")
    return f"{name}, {count / 1e6:.0f} M" if count >= 1e6 else name


def _row(name: str, found: Figures, sides: Sequence[str]) -> list[str]:
    return [name, *(_cell(found.get(side, {})) for side in sides)]


def _cell(figures: Figures) -> str:
    if "cpu" not in figures:
        return "failed" if "error" in figures else NOTHING
    text = f"{figures['cpu']:.2f} ({figures['peak'] / 1e6:.0f})"
    times = figures.get("times_cpu", 1.0)
    return text if times == 1.0 else f"{text} {times:.1f}x"


def _means(section: Figures) -> Iterator[str]:
    head = [
        "times ours, geometric mean (least)", "CPU", "CPU with loading", "wall", "memory",
        "models",
    ]  # fmt: skip
    rows = []
    for side, means in section["means"].items():
        if means:
            columns = [means[name] for name in ("cpu", "cpu_with_load", "wall", "peak")]
            cells = [f"{item['mean']:.1f} ({item['least']:.1f})" for item in columns]
            rows.append([plan.TITLES[side], *cells, str(means["cpu"]["models"])])
    if rows:
        yield from table(head, rows)
        yield ""
    imports = [
        f"{plan.TITLES[side]} {cost['cpu']:.1f} s ({cost['peak'] / 1e6:.0f} MB)"
        for side, cost in section["imports"].items()
        if cost["cpu"] is not None
    ]
    if imports:
        yield f"Importing, not counted above, takes in CPU seconds: {', '.join(imports)}."
        yield ""


def _failures(models: Figures) -> Iterator[str]:
    failed = [
        f"- {model}, {plan.TITLES[side]}: {_clean(figures['error'])}"
        for model, found in models.items()
        for side, figures in found.items()
        if "error" in figures
    ]
    if failed:
        yield from ("Failed:", "", *failed, "")


def _clean(text: str) -> str:
    short = text if len(text) <= 160 else text[:159] + "…"
    return short.replace("|", "\\|").replace("\n", " ")


def _seven(section: Figures) -> Iterator[str]:
    yield "Llama-2-7B's configuration and a checkpoint of holes; holes stay holes in the copy."
    yield ""
    head = ["checkpoint", "weights", "CPU s", "wall s", "peak MB", "nodes", "GB beside the file"]
    titles = {plan.OURS: "copy", plan.LINKED: "link"}
    rows = [
        [
            model.rpartition("-")[2], titles[side], f"{item['cpu']:.2f}", f"{item['wall']:.2f}",
            f"{item['peak'] / 1e6:.0f}", str(item["nodes"]), f"{item['bytes'] / 1e9:.1f}",
        ]
        for model, found in section["models"].items()
        for side, item in found.items()
        if "cpu" in item
    ]  # fmt: skip
    yield from table(head, rows)
    yield ""
    yield from _failures(section["models"])


# Growth


def _growth(scaling: Figures) -> Iterator[str]:
    yield "BERT-like encoders from checkpoints of holes, which stay holes in a copy: CPU seconds"
    others = len(scaling["layers"]["fits"]) > 1
    yield f"(peak MB).{' The others ran once.' if others else ''}"
    yield ""
    for kind, title in (("layers", "layers, width 256"), ("width", "width, 4 layers")):
        part = scaling[kind]
        sides = list(part["fits"])
        rows = [
            [size, str(found.get(plan.OURS, {}).get("nodes", NOTHING)), *_row("", found, sides)[1:]]
            for size, found in part["rows"].items()
        ]
        if rows:
            yield from table([title, "nodes", *(plan.TITLES[side] for side in sides)], rows)
            yield ""
            yield from _fits(part["fits"], kind)
            yield from _failures(part["rows"])


def _fits(fits: Figures, kind: str) -> Iterator[str]:
    ours = fits.get(plan.OURS, {})
    if ours.get("cpu_by_nodes") is not None:
        yield (
            f"autoexport's seconds grow with nodes to the power {ours['cpu_by_nodes']:.2f} "
            f"({_number(ours['cpu_by_nodes_larger_half'])} over the larger half); as a line, "
            f"{ours['seconds_without_nodes']:.2f} s and {ours['seconds_per_1000_nodes']:.2f} s "
            "per 1000 nodes."
        )
    grown = [
        f"{plan.TITLES[side]} {_number(fit['cpu_by_size'])} and {_number(fit['peak_by_size'])}"
        for side, fit in fits.items()
    ]
    yield f"Exponents of seconds and memory by {kind}: {', '.join(grown)}."
    yield ""


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


# Verification and the command line


def _verified(models: Figures) -> Iterator[str]:
    yield from (
        "The whole of `auto_export` with its own processes, once they are warm: loading, making",
        "inputs, analysis, export, and with verification. Beside it what one eager forward, one",
        "ONNX Runtime session and one run of it cost in a script, once per checked shape.",
        "Memory is that of all processes together.",
        "",
    )
    head = [
        "model", '`verify="off"` s', "verified s", "added s", "parts s", "added / parts",
        "CPU added / parts", "MB", "made by", "attempts", "pairs",
    ]  # fmt: skip
    yield from table(head, [_verified_row(model, item) for model, item in models.items()])
    yield ""
    analysed = [(model, item) for model, item in models.items() if "analysis" in item]
    if analysed:
        yield from (
            "What the analysis takes of that: as the verified export did it, which records a",
            "forward only where the ranker is not sure without, and in a script of its own with",
            "everything, when Python has parsed no source yet.",
            "",
        )
        head = ["model", "verified s", "analysis s", "share", "whole analysis s", "share"]
        yield from table(head, [_analysis_row(model, item) for model, item in analysed])
        yield ""


def _analysis_row(model: str, item: Figures) -> list[str]:
    return [
        model, f"{item['wall_verified']:.1f}",
        f"{item['analysis']:.3f}", f"{item['analysis_share']:.1%}",
        f"{item['whole_analysis']:.2f}", f"{item['whole_analysis_share']:.1%}",
    ]  # fmt: skip


def _verified_row(model: str, item: Figures) -> list[str]:
    if "wall_extra" not in item:
        return [model, _clean(item.get("error", NOTHING)), *[""] * 9]
    return [
        model, f"{item['wall_unverified']:.1f}", f"{item['wall_verified']:.1f}",
        f"{item['wall_extra']:.1f}", f"{item['wall_parts']:.1f}", f"{item['wall_share']:.2f}",
        f"{item['cpu_share']:.2f}", f"{item['memory'] / 1e6:.0f}", item["candidate"],
        str(item["attempts"]), str(item["rounds"]),
    ]  # fmt: skip


def _command(models: Figures) -> Iterator[str]:
    for model, item in models.items():
        if item:
            yield from (
                f"`autoexport export` of {model}, from the command line to the verified file:",
                f"{item['command']:.1f} s. A bare script that imports torch and the model class,",
                "loads the checkpoint, and runs it once in eager PyTorch and once in ONNX Runtime:",
                f"{item['bare']:.1f} s. Ratio, {item['rounds']} pairs: {item['times']:.2f}.",
                "",
            )
