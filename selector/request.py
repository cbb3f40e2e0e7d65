"""What may be asked for: options are checked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from selector.errors import InvalidRequestError
from strategies import registry

OBJECTIVES = ("time", "attempts", "latency", "size", "coverage")
VERIFY_LEVELS = ("full", "light", "off")
WEIGHTS = ("copy", "link", "embed")
DYNAMIC = ("auto", True, False)
DEFAULT_OPSET = 18
# torchlib is written for 18; TorchScript's symbolics end at 20.
OPSETS = range(18, 21)


def check_options(  # noqa: PLR0913 - all the options that can be checked
    *,
    strategy: str = "auto",
    objective: str = "time",
    dynamic: bool | str = "auto",
    verify: str = "full",
    weights: str = "copy",
    opset: int | None = None,
    tolerance: float | None = None,
    time_budget: float | None = None,
    attempt_timeout: float | None = None,
    ranker: str | os.PathLike[str] | None = None,
) -> None:
    """Checks what can be checked without the model.

    Raises:
        InvalidRequestError: A value is unknown or out of range, or two contradict.
    """
    _check_choice("strategy", strategy, ("auto", *registry.names()))
    _check_choice("objective", objective, OBJECTIVES)
    _check_choice("verify", verify, VERIFY_LEVELS)
    _check_choice("value of weights", weights, WEIGHTS)
    if dynamic not in DYNAMIC:
        raise InvalidRequestError(f"dynamic is 'auto', True or False, not {dynamic!r}")
    if opset is not None and opset not in OPSETS:
        raise InvalidRequestError(
            f"opset {opset} is not supported; choose {OPSETS.start} to {OPSETS.stop - 1}"
        )
    positive = {
        "tolerance": tolerance, "time budget": time_budget, "attempt timeout": attempt_timeout,
    }  # fmt: skip
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise InvalidRequestError(f"the {name} must be more than 0, not {value}")
    if verify == "off" and tolerance is not None:
        raise InvalidRequestError("a tolerance has no meaning with verify='off'; leave one out")
    if ranker is not None and not Path(ranker).is_file():
        raise InvalidRequestError(
            f"there is no ranker {os.fspath(ranker)}; "
            "make one with `autoexport retrain BASELINE.json -o FILE`"
        )


def _check_choice(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequestError(registry.unknown_name_message(kind, value, known))
