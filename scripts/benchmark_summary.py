"""From the benchmark's journal to its figures: medians, paired ratios, geometric means, fits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scripts import benchmark_plan as plan
from scripts.benchmark_journal import Journal, Result

Figures = dict[str, Any]

# What the sides are compared by, of a run's result.
MEASURES: dict[str, Callable[[Result], float]] = {
    "cpu": lambda result: float(result["export"]["cpu"]),
    "wall": lambda result: float(result["export"]["wall"]),
    "cpu_with_load": lambda result: float(result["export"]["cpu"]) + _load(result, "cpu"),
    "peak": lambda result: max(float(result["export"]["peak"]), _load(result, "peak")),
}


def summarise(journal: Journal) -> dict[str, Any]:
    """Everything that the report says, as JSON."""
    return {
        "environment": journal.environment,
        "models": journal.facts,
        "export": _compared(journal, "export"),
        "7b": _compared(journal, "7b"),
        "tiny": _compared(journal, "tiny"),
        "scaling": _scaling(journal),
        "verified": _by_model(journal, "verified", _verification),
        "command": _by_model(journal, "command", _command),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """The `b` of `costs = a * sizes**b` that fits best by least squares of logarithms."""
    if len(set(sizes)) < 2:
        return None
    fit = statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, costs)])
    return float(fit.slope)


# Sides held against ours


def _compared(journal: Journal, section: str) -> dict[str, Any]:
    models = _by_model(journal, section, _sides)
    sides = [side for side in plan.EXPORTERS if any(side in found for found in models.values())]
    return {
        "sides": sides,
        "models": models,
        "means": {side: _means(models, side) for side in sides if side != plan.OURS},
        "imports": {side: _imports(journal, section, side) for side in sides},
    }


def _by_model(
    journal: Journal, section: str, figures: Callable[[Journal, str, str], Figures]
) -> dict[str, Figures]:
    models = dict.fromkeys(task.model for task in journal.results if task.section == section)
    return {model: figures(journal, section, model) for model in models}


def _sides(journal: Journal, section: str, model: str) -> Figures:
    ours = _good(journal, section, model, plan.OURS)
    found = {}
    for side in plan.EXPORTERS:
        every = dict(journal.rounds(section, model, side))
        if every:
            found[side] = _figures(every, _good(journal, section, model, side), ours)
    return found


def _figures(
    every: Mapping[int, Result], good: Mapping[int, Result], ours: Mapping[int, Result]
) -> Figures:
    figures: Figures = {"rounds": len(good)}
    errors = [result["error"] for result in every.values() if "error" in result]
    if errors:
        figures["error"] = errors[0]
    if not good:
        return figures
    latest = good[max(good)]
    for name, measure in MEASURES.items():
        figures[name] = statistics.median(map(measure, good.values()))
        pairs = [measure(good[n]) / measure(ours[n]) for n in good if n in ours]
        if pairs:
            # How many times ours it costs.
            figures[f"times_{name}"] = statistics.median(pairs)
    figures |= {key: latest[key] for key in ("nodes", "bytes", "late_imports") if key in latest}
    if "stages" in latest:
        figures["stages"] = {
            stage: statistics.median(result["stages"][stage] for result in good.values())
            for stage in latest["stages"]
        }
    return figures


def _good(journal: Journal, section: str, model: str, side: str) -> dict[int, Result]:
    rounds = journal.rounds(section, model, side)
    return {number: result for number, result in rounds if "error" not in result}


def _means(models: Mapping[str, Figures], side: str) -> Figures:
    means: Figures = {}
    for name in MEASURES:
        times = {
            model: sides[side][f"times_{name}"]
            for model, sides in models.items()
            if f"times_{name}" in sides.get(side, {})
        }
        if times:
            least = min(times, key=times.__getitem__)
            means[name] = {
                "mean": statistics.geometric_mean(times.values()),
                "least": times[least],
                "least_model": least,
                "models": len(times),
            }
    return means


def _imports(journal: Journal, section: str, side: str) -> Figures:
    costs = [
        result["import"]
        for task, result in journal.results.items()
        if (task.section, task.side) == (section, side) and "import" in result
    ]
    return {
        name: statistics.median(cost[name] for cost in costs) if costs else None
        for name in ("cpu", "wall", "peak")
    }


def _load(result: Result, measure: str) -> float:
    return float(result["load"][measure]) if "load" in result else 0.0


# Growth


def _scaling(journal: Journal) -> dict[str, Any]:
    models = _by_model(journal, "scaling", _sides)
    return {
        "layers": _growth(models, "layers", plan.LAYERS),
        "width": _growth(models, "width", plan.WIDTHS),
    }


def _growth(models: Mapping[str, Figures], kind: str, sizes: Iterable[int]) -> dict[str, Any]:
    """One row per size, and for each side how its costs grow."""
    rows = {size: models[f"{kind}-{size}"] for size in sizes if f"{kind}-{size}" in models}
    return {
        "rows": {str(size): row for size, row in rows.items()},
        "fits": {
            side: _fit(
                {size: row[side] for size, row in rows.items() if "cpu" in row.get(side, {})}
            )
            for side in plan.EXPORTERS
            if any(side in row for row in rows.values())
        },
    }


def _fit(rows: Mapping[int, Figures]) -> Figures:
    cpu = [row["cpu"] for row in rows.values()]
    nodes = [row["nodes"] for row in rows.values() if "nodes" in row]
    fit: Figures = {
        "cpu_by_size": exponent([*rows], cpu),
        "peak_by_size": exponent([*rows], [row["peak"] for row in rows.values()]),
    }
    if len(set(nodes)) > 1:
        line = statistics.linear_regression(nodes, cpu)
        fit |= {
            "cpu_by_nodes": exponent(nodes, cpu),
            # The larger half says more, as a constant part hides growth among the small.
            "cpu_by_nodes_larger_half": exponent(nodes[len(nodes) // 2 :], cpu[len(cpu) // 2 :]),
            "seconds_per_1000_nodes": 1000 * line.slope,
            "seconds_without_nodes": line.intercept,
        }
    return fit


# Verification and the command line


def _verification(journal: Journal, section: str, model: str) -> Figures:
    without, verified, parts = (
        _good(journal, section, model, side)
        for side in (plan.UNVERIFIED, plan.VERIFIED, plan.PARTS)
    )
    errors = [
        result["error"]
        for side in (plan.UNVERIFIED, plan.VERIFIED, plan.PARTS)
        for _, result in journal.rounds(section, model, side)
        if "error" in result
    ]
    rounds = without.keys() & verified.keys() & parts.keys()
    if not rounds:
        return {"error": errors[0]} if errors else {}
    figures: Figures = {
        "rounds": len(rounds),
        "candidate": verified[max(rounds)]["candidate"],
        "attempts": len(verified[max(rounds)]["attempts"]),
        "cases": len(verified[max(rounds)]["cases"]),
        "shapes": len(_checked(verified[max(rounds)], parts[max(rounds)])),
        "memory": statistics.median(verified[n]["memory"] for n in rounds),
        "attempt_peak": statistics.median(verified[n]["attempt_peak"] for n in rounds),
        "memory_unverified": statistics.median(without[n]["memory"] for n in rounds),
        **_analysis({n: verified[n] for n in rounds}, {n: parts[n] for n in rounds}),
    }
    for name in ("cpu", "wall"):
        extra = {n: verified[n]["export"][name] - without[n]["export"][name] for n in rounds}
        allowed = {n: _allowed(verified[n], parts[n], name) for n in rounds}
        figures |= {
            f"{name}_unverified": statistics.median(without[n]["export"][name] for n in rounds),
            f"{name}_verified": statistics.median(verified[n]["export"][name] for n in rounds),
            f"{name}_extra": statistics.median(extra.values()),
            f"{name}_parts": statistics.median(allowed.values()),
            f"{name}_share": statistics.median(extra[n] / allowed[n] for n in rounds),
        }
    return figures


def _analysis(verified: Mapping[int, Result], parts: Mapping[int, Result]) -> Figures:
    """Seconds of the analysis as the export did it, and of all of it, with their shares."""
    walls = {number: result["export"]["wall"] for number, result in verified.items()}
    done = {number: result["timings"]["study.analysis"] for number, result in verified.items()}
    whole = {
        number: result["read"]["wall"] + result["recorded"]["wall"]
        for number, result in parts.items()
    }
    return {
        "analysis": statistics.median(done.values()),
        "analysis_share": statistics.median(done[n] / walls[n] for n in walls),
        "whole_analysis": statistics.median(whole.values()),
        "whole_analysis_share": statistics.median(whole[n] / walls[n] for n in walls),
    }


def _checked(verified: Result, parts: Result) -> list[Figures]:
    """The pieces that belong to shapes which the verification ran: the example's, and others."""
    sizes = [case["sizes"] for case in verified["cases"]]
    example, *others = parts["shapes"]
    return [example, *(shape for shape in others if shape["sizes"] in sizes)]


def _allowed(verified: Result, parts: Result, measure: str) -> float:
    """One eager forward, one session and one run of it for each checked shape."""
    return sum(
        float(shape[piece][measure])
        for shape in _checked(verified, parts)
        for piece in ("eager", "session", "run")
    )


def _command(journal: Journal, section: str, model: str) -> Figures:
    ours = _good(journal, section, model, plan.COMMAND)
    bare = _good(journal, section, model, plan.BARE)
    rounds = ours.keys() & bare.keys()
    if not rounds:
        return {}
    return {
        "rounds": len(rounds),
        "command": statistics.median(ours[n]["wall"] for n in rounds),
        "bare": statistics.median(bare[n]["wall"] for n in rounds),
        "times": statistics.median(ours[n]["wall"] / bare[n]["wall"] for n in rounds),
    }
