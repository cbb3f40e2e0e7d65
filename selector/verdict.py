"""What a verification found, as the report that callers, errors and files carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selector.comparison import Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output over all cases that were run.

    Attributes:
        name: As in the file.
        dtype: torch's dtype name.
        shape: In the example case.
        max_abs_error: Largest absolute error; infinite where NaN or infinity are misplaced;
            None where nothing was compared.
        max_rel_error: The same relative to the output's magnitude.
        tolerance: The relative error that was allowed.
        status: `right`, `set-equal` (right but for the order of ties), `wrong`,
            `unverifiable`, or `unchecked` where something else stopped the verification.
        reason: Why it is wrong or unverifiable, and in which case.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs_error: float | None
    max_rel_error: float | None
    tolerance: float
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCheck:
    """One set of inputs that the capture did not see, and whether the file is right on it."""

    label: str
    sizes: Mapping[str, int]
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What was checked and what came out.

    Attributes:
        level: `full`; `light` where a shallow copy of the model stood in for it, whose
            outputs and cases these are; `off` where nothing was checked, as asked.
        ok: The verdict.
        reason: Why not, or an empty string.
        dynamic: Whether the file was held to its dynamic axes.
        outputs: In the file's order.
        cases: The unseen inputs that were run.
        dynamic_axes: Axes that really are dynamic: symbolic in the file, and right at
            another size. By input, index to name.
        frozen_axes: Names of the axes that should vary and do not.
        checker: What `onnx.checker` objects to, or None.
        nodes: Number of nodes, those in subgraphs included.
        untagged: Number of nodes without complete hierarchy tags.
        optimizer_fault: Right with ONNX Runtime's optimiser off and wrong with it on.
        optimizer_level: The highest optimiser level at which the file is right: `all`,
            `extended`, `basic` or `off`; None where at none.
        opset: Version of the default operator set.
        ort_version: Of ONNX Runtime.
        latency_seconds: Median of a few runs of the example, or None.
        seconds: Wall seconds of the whole verification.
        timings: The same by stage: checker, session, run, eager.
        notes: What was left out and why.
    """

    level: str = "full"
    ok: bool
    reason: str
    dynamic: bool = False
    outputs: tuple[OutputCheck, ...] = ()
    cases: tuple[CaseCheck, ...] = ()
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    frozen_axes: tuple[str, ...] = ()
    checker: str | None = None
    nodes: int
    untagged: int
    optimizer_fault: bool = False
    optimizer_level: str | None = None
    opset: int
    ort_version: str
    latency_seconds: float | None = None
    seconds: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it in types that JSON has; infinities become the string `Infinity`."""
        body: dict[str, Any] = _plain(asdict(self))
        return body

    def metadata(self) -> dict[str, str]:
        """The entry that the file itself carries, as compact JSON."""
        body: dict[str, Any] = {"level": self.level, "ok": self.ok}
        if self.level != "off":
            body |= {
                "cases": [case.label for case in self.cases],
                "dynamic_axes": self.dynamic_axes,
                "onnxruntime": self.ort_version,
                "outputs": {
                    item.name: {"status": item.status, "max_rel_error": item.max_rel_error}
                    for item in self.outputs
                },
            }
        return {"autoexport.verification": json.dumps(_plain(body), separators=(",", ":"))}


@dataclass(slots=True)
class OutputState:
    """What is known of an output while cases are run: its worst so far."""

    tolerance: float
    status: str = "unchecked"
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    finite: int = 0
    reason: str = ""

    def add(self, difference: Difference, *, label: str, settled: bool) -> None:
        """Takes in one case, whose ties may have had to be settled for it."""
        self.finite += difference.finite
        self.max_abs_error = max(self.max_abs_error or 0.0, difference.max_abs_error)
        self.max_rel_error = max(self.max_rel_error or 0.0, difference.max_rel_error)
        if not difference.right:
            self.status, self.reason = "wrong", f"{difference.reason} ({label})"
        elif settled:
            self.status = "set-equal"
        elif self.status == "unchecked":
            self.status = "right"

    def set_unverifiable(self, reason: str) -> None:
        """Nothing can be said of this output, whatever was compared before."""
        self.status, self.reason = "unverifiable", reason

    def check(self, name: str, dtype: str, shape: tuple[int, ...]) -> OutputCheck:
        """The output's line in the report."""
        return OutputCheck(
            name=name,
            dtype=dtype,
            shape=shape,
            max_abs_error=self.max_abs_error,
            max_rel_error=self.max_rel_error,
            tolerance=self.tolerance,
            status=self.status,
            reason=self.reason,
        )


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity"
    return value
