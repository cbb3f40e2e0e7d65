"""What is known of a model, as numbers with names, and in words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selector.control_flow import KINDS
from selector.features import FAMILIES, MODALITIES, SIZE_KINDS, ModelFeatures
from selector.plans import LARGE_SIZES, OTHER_SIZES

# An operator or axis that fewer models have, or that fewer lack, is chance.
FEWEST_MODELS = 4
FLOWS = (*KINDS, *SIZE_KINDS, "config_branch", "config_loop")
LOWERING_WORDS = {"torchscript": "TorchScript", "torchlib": "torchlib"}
MOST_UNKNOWN = 3
MISSING = math.nan

# Traits that say why a capture or lowering fails; the others only go along with it.
CAUSES = re.compile("unknown_|varying_|has_|count_|value_|weight_|needs_")

FLOW_WORDS = {
    "branch": "a branch on a tensor's value",
    "loop": "a loop on a tensor's value",
    "nonzero": "results whose size depends on values",
    "mask": "indexing by a mask",
    "read": "a tensor's value read as a number",
    "check": "a check of a tensor's value",
    "index": "indexing by computed tensors",
    "shape_branch": "branches on sizes",
    "shape_loop": "loops over sizes",
    "config_branch": "branches on the config",
    "config_loop": "loops over the config",
}
SIZE_WORDS = {
    "log_parameters": "parameters",
    "log_modules": "modules",
    "log_operators": "operators in one forward",
    "distinct_operators": "kinds of operators",
    "axes": "axes that vary",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The operators and axes that a baseline can say something about.

    Attributes:
        operators: Names of aten operators.
        axes: Names of axes.
    """

    operators: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Sequence[ModelFeatures]) -> Vocabulary:
        """Those that some models have and others do not."""
        operators = Counter(name for item in models for name in item.operators)
        axes = Counter(name for item in models for name in item.axes)
        ran = sum(item.recorded for item in models)
        return cls(_telling(operators, ran), _telling(axes, len(models)))


def _telling(counts: Counter[str], models: int) -> tuple[str, ...]:
    return tuple(
        name
        for name, count in sorted(counts.items())
        if FEWEST_MODELS <= count <= models - FEWEST_MODELS
    )


def of_model(features: ModelFeatures, vocabulary: Vocabulary) -> dict[str, float]:
    """Numbers by name; those that could not be computed are NaN."""
    ran = features.recorded
    numbers: dict[str, float] = {
        "log_parameters": math.log10(1 + features.parameters),
        "log_modules": math.log10(1 + features.modules),
        "log_operators": math.log10(1 + sum(features.operators.values())) if ran else MISSING,
        "distinct_operators": math.log10(1 + len(features.operators)) if ran else MISSING,
        "axes": len(features.axes) or MISSING,
        "value_dependent": features.value_dependent,
        "weight_dependent": features.weight_dependent if ran else MISSING,
        "needs_values": _needs_values(features) if ran else MISSING,
    }
    for name in LOWERING_WORDS:
        unknown = features.unknown_to.get(name)
        numbers[f"unknown_{name}"] = MISSING if unknown is None else min(len(unknown), MOST_UNKNOWN)
    for kind in FLOWS:
        numbers[f"has_{kind}"] = bool(features.control_flow.get(kind))
        numbers[f"count_{kind}"] = math.log1p(features.control_flow.get(kind, 0))
    for label in (OTHER_SIZES, LARGE_SIZES):
        numbers[f"varying_{label}"] = (
            MISSING if features.varying is None else label in features.varying
        )
    numbers |= {f"family_{name}": features.family == name for name in FAMILIES}
    numbers |= {f"modality_{name}": name in features.modalities for name in MODALITIES}
    for name in vocabulary.operators:
        numbers[f"operator_{name}"] = name in features.operators if ran else MISSING
    for name in vocabulary.axes:
        numbers[f"axis_{name}"] = name in features.axes if features.axes else MISSING
    return {name: float(value) for name, value in numbers.items()}


def _needs_values(features: ModelFeatures) -> bool:
    return any(note.startswith("run on real values") for note in features.notes)


def in_words(name: str, *, high: bool) -> str:
    """What a number says.

    Args:
        name: One of those that `of_model` gives.
        high: Whether it is above what is usual.
    """
    sort, _, rest = name.partition("_")
    if name in SIZE_WORDS:
        return f"{'many' if high else 'few'} {SIZE_WORDS[name]}"
    if name == "value_dependent":
        flow = "goes by tensors' values"
        return f"forward {flow}" if high else f"forward nowhere {flow}"
    if name == "weight_dependent":
        return f"forward {'reads' if high else 'does not read'} values of the weights"
    if name == "needs_values":
        return f"forward {'needs' if high else 'does without'} values to know its shapes"
    if sort == "operator":
        return f"{'runs' if high else 'does not run'} {rest.removesuffix('.default')}"
    words = {
        "unknown": f"operators that {LOWERING_WORDS.get(rest, rest)} does not know",
        "has": FLOW_WORDS.get(rest, rest),
        "count": f"much of this: {FLOW_WORDS.get(rest, rest)}",
        "varying": f"more to do at {rest} than on the example",
        "family": f"family {rest}",
        "modality": f"{rest} as input",
        "axis": f"axis {rest}",
    }
    return words[sort] if high else f"no {words[sort]}"
