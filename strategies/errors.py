"""What an export attempt can fail with: `ExportError`, the root, and the `StrategyError` family."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pathlib import Path


class ExportError(Exception):
    """Root of every error that autoexport raises on purpose.

    Its message says what happened, where, and the next step. All members survive
    pickling, with their attributes and, where it can be pickled itself, their cause.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep keyword-only attributes and the cause, which pickle would drop."""
        return _rebuild, (type(self), self.args, dict(self.__dict__), _portable(self.__cause__))


class InvalidRequestError(ExportError, ValueError):
    """What was asked for cannot be: contradictory options, inputs that do not fit, a full disk."""


class StrategyError(ExportError):
    """One candidate did not produce a usable file; the chain goes on with the next.

    Attributes:
        strategy: Name of the strategy, as in the registry.
        stage: Where it failed: prepare, capture, lower, save, verify, or attempt where its
            process was ended.
        reason: What happened, on one line.
        hint: The next step for the user, or None.
    """

    usual_stage: ClassVar[str] = "attempt"

    def __init__(
        self, reason: str, *, strategy: str = "", stage: str = "", hint: str | None = None
    ) -> None:
        self.reason = reason
        self.strategy = strategy
        self.stage = stage
        self.hint = hint
        super().__init__(reason)

    def __str__(self) -> str:
        where = "/".join(part for part in (self.strategy, self.stage) if part)
        text = f"{where}: {self.reason}" if where else self.reason
        return f"{text} ({self.hint})" if self.hint else text

    def located(self, strategy: str) -> Self:
        """Fill in strategy and stage where the raiser did not; returns self."""
        self.strategy = self.strategy or strategy
        self.stage = self.stage or self.usual_stage
        return self


class StrategyUnavailableError(StrategyError):
    """A precondition of the candidate is missing: a skip, not a failure."""

    usual_stage: ClassVar[str] = "prepare"


class CaptureError(StrategyError):
    """The model could not be captured; the exporter's own error is `__cause__`."""

    usual_stage: ClassVar[str] = "capture"


class VoidReadError(CaptureError):
    """Forward needs a value that a capture without weights does not have."""


class FrozenAxisError(CaptureError):
    """An axis that was to vary came out of the capture fixed, or equal to another."""


class DataDependentError(CaptureError):
    """Forward goes its way by the values of tensors, which the capture does not follow."""


class LoweringError(StrategyError):
    """The captured model could not be turned into ONNX; the original is `__cause__`."""

    usual_stage: ClassVar[str] = "lower"


class AttemptTimeoutError(StrategyError):
    """The attempt was stopped at its time limit."""


class AttemptCrashedError(StrategyError):
    """The attempt's process died.

    Attributes:
        signal: Number of the signal that ended it, or None where it simply exited.
    """

    def __init__(self, reason: str, *, signal: int | None = None, **where: str) -> None:
        self.signal = signal
        super().__init__(reason, **where)


class AttemptOutOfMemoryError(StrategyError):
    """The attempt needed more memory than its limit, or than the machine has."""


class VerificationError(StrategyError):
    """A file was written and is not right.

    Attributes:
        report: The `selector.VerificationReport` that says what is wrong.
        path: The file, still in the staging folder, or None.
    """

    usual_stage: ClassVar[str] = "verify"

    def __init__(self, reason: str, *, report: Any, path: Path | None = None, **where: str) -> None:
        self.report = report
        self.path = path
        super().__init__(reason, **where)


class OtherSizesError(VerificationError):
    """A file was written that is right at the example's sizes only."""


def _rebuild(
    cls: type[ExportError],
    args: tuple[Any, ...],
    state: dict[str, Any],
    cause: BaseException | None,
) -> ExportError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301 - our own bytes, made on this line
    except Exception:  # noqa: BLE001 - foreign exceptions fail to pickle in any way they like
        return RuntimeError(f"{type(cause).__name__}: {cause}")
    return cause
