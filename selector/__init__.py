"""Export any PyTorch or transformers model to verified, hierarchy-tagged ONNX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selector.api import ExportResult, auto_export
    from selector.chain import Attempt, Progress
    from selector.errors import (
        AllStrategiesFailedError,
        AnalysisError,
        AttemptCrashedError,
        AttemptOutOfMemoryError,
        AttemptTimeoutError,
        CaptureError,
        ExportError,
        InvalidRequestError,
        LoweringError,
        ModelLoadError,
        RankerError,
        StrategyError,
        StrategyUnavailableError,
        VerificationError,
    )
    from selector.features import ModelFeatures
    from selector.inputs import ShapeDtype
    from selector.queries import analyze, rank, verify
    from selector.ranking import RankedCandidate, Ranking
    from selector.retraining import retrain
    from selector.verification import VerificationReport
    from strategies.base import Candidate
    from strategies.hierarchy import Hierarchy, read_hierarchy

# Where each public name lives; imported on first use, so that `import selector` is cheap.
_HOMES = {
    "selector.api": ("ExportResult", "auto_export"),
    "selector.chain": ("Attempt", "Progress"),
    "selector.errors": (
        "AllStrategiesFailedError",
        "AnalysisError",
        "AttemptCrashedError",
        "AttemptOutOfMemoryError",
        "AttemptTimeoutError",
        "CaptureError",
        "ExportError",
        "InvalidRequestError",
        "LoweringError",
        "ModelLoadError",
        "RankerError",
        "StrategyError",
        "StrategyUnavailableError",
        "VerificationError",
    ),
    "selector.features": ("ModelFeatures",),
    "selector.inputs": ("ShapeDtype",),
    "selector.queries": ("analyze", "rank", "verify"),
    "selector.ranking": ("RankedCandidate", "Ranking"),
    "selector.retraining": ("retrain",),
    "selector.verification": ("VerificationReport",),
    "strategies.base": ("Candidate",),
    "strategies.hierarchy": ("Hierarchy", "read_hierarchy"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AllStrategiesFailedError",
    "AnalysisError",
    "Attempt",
    "AttemptCrashedError",
    "AttemptOutOfMemoryError",
    "AttemptTimeoutError",
    "Candidate",
    "CaptureError",
    "ExportError",
    "ExportResult",
    "Hierarchy",
    "InvalidRequestError",
    "LoweringError",
    "ModelFeatures",
    "ModelLoadError",
    "Progress",
    "RankedCandidate",
    "RankerError",
    "Ranking",
    "ShapeDtype",
    "StrategyError",
    "StrategyUnavailableError",
    "VerificationError",
    "VerificationReport",
    "analyze",
    "auto_export",
    "rank",
    "read_hierarchy",
    "retrain",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
