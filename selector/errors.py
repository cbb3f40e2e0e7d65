"""The exception hierarchy of the whole tool; everything derives from `ExportError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.errors import (
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    CaptureError,
    DataDependentError,
    ExportError,
    FrozenAxisError,
    InvalidRequestError,
    LoweringError,
    OtherSizesError,
    StrategyError,
    StrategyUnavailableError,
    VerificationError,
    VoidReadError,
)

if TYPE_CHECKING:
    from selector.chain import Attempt

__all__ = [
    "AllStrategiesFailedError",
    "AnalysisError",
    "AttemptCrashedError",
    "AttemptOutOfMemoryError",
    "AttemptTimeoutError",
    "CaptureError",
    "DataDependentError",
    "ExportError",
    "FrozenAxisError",
    "InvalidRequestError",
    "LoweringError",
    "ModelLoadError",
    "OtherSizesError",
    "RankerError",
    "StrategyError",
    "StrategyUnavailableError",
    "VerificationError",
    "VoidReadError",
]


class ModelLoadError(ExportError):
    """The model cannot be had: not found, gated, remote code refused, broken checkpoint."""


class AnalysisError(ExportError):
    """The model's features could not be computed."""


class RankerError(ExportError):
    """The trained ranker cannot be used or fitted; exports go on with the static order."""


class AllStrategiesFailedError(ExportError):
    """No candidate gave a verified file; `__cause__` is the best-ranked one's error.

    Attributes:
        attempts: Every attempt, in the order made.
    """

    def __init__(self, message: str, *, attempts: tuple[Attempt, ...]) -> None:
        self.attempts = attempts
        super().__init__(message)
