"""Is this file right? Checker, tags, ONNX Runtime, and eager PyTorch on inputs no capture saw."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

from selector.frozen_axes import frozen_axes
from selector.judging import RANDOM, Judge
from selector.plans import EXAMPLE, OTHER_SIZES, OTHER_VALUES
from selector.replaying import DrawsError
from selector.runtime import RuntimeRefusalError, Session
from selector.structure import (
    FileFacts,
    fixed_axes,
    has_dynamic_axes,
    interface_fault,
    read_checked,
    some,
    tag_fault,
)
from selector.verdict import CaseCheck, OutputCheck, VerificationReport
from strategies.errors import OtherSizesError, VerificationError

if TYPE_CHECKING:
    from torch import nn

    from selector.comparison import Array, Difference
    from selector.reference import Case, Reference

__all__ = [
    "CaseCheck",
    "OutputCheck",
    "VerificationReport",
    "has_dynamic_axes",
    "verify_file",
    "verify_structure",
]

# The example's first run, which is compared, and up to three more within this time. A run
# that takes long is hardly faster the next time.
LATENCY_RUNS = 4
LATENCY_SECONDS = 0.1


def verify_file(  # noqa: PLR0913 - as many as there are ways to hold a file to less
    path: str | Path,
    reference: Reference,
    *,
    dynamic: bool,
    tolerance: float | None = None,
    require_tags: bool = True,
    module: nn.Module | None = None,
) -> VerificationReport:
    """Checks a file against eager PyTorch's outputs.

    One session, and one run per case. Only where an output is not clearly right is eager
    PyTorch run again, to see whether the model amplifies rounding or does not reproduce
    its own outputs.

    Args:
        path: The ONNX file, its external data beside it.
        reference: From `compute_reference` on the model the file was exported from.
        dynamic: Whether every axis that may vary has to be dynamic in the file. A static
            file is held to the example's sizes only.
        tolerance: Relative to an output's magnitude, for all floating outputs; by dtype
            where None, see `selector.comparison`.
        require_tags: Whether nodes without hierarchy tags make the file wrong.
        module: What the reference was computed from; where None, nothing excuses an error.

    Raises:
        VerificationError: The file is not right; its report says in what.
    """
    check = _Verification(
        Path(path), reference, dynamic=dynamic, tolerance=tolerance, module=module
    )
    with check.judging():
        check.structure(require_tags=require_tags)
        check.numbers()
    return check.report("")


def verify_structure(
    path: Path,
    reference: Reference,
    *,
    dynamic: bool,
    further: Callable[[FileFacts], str | None] = lambda _: None,
) -> VerificationReport:
    """Checks a file without running it: what it says about itself, and that its bytes are there.

    Args:
        path: The ONNX file, its external data beside it.
        reference: Whose names, dtypes and axes it has to have; values are not looked at.
        dynamic: Whether every axis that may vary has to be dynamic in the file.
        further: Looks at the rest of what the file says, and may say what is wrong.

    Raises:
        VerificationError: It is not right; its report says in what.
    """
    check = _Verification(path, reference, dynamic=dynamic, tolerance=None, module=None)
    with check.judging():
        fault = further(check.structure(require_tags=True))
        if fault:
            raise _WrongError(fault)
    return check.report("")


class _WrongError(Exception):
    """Ends a verification: what is wrong, and the next step where there is one.

    `frozen` tells that it is right at the example's sizes.
    """

    def __init__(self, reason: str, hint: str = "", *, frozen: bool = False) -> None:
        self.reason = reason
        self.hint = hint
        self.frozen = frozen
        super().__init__(reason)


class _Verification:
    """One file's way through the checks; whatever was learnt stands in the report."""

    def __init__(
        self,
        path: Path,
        reference: Reference,
        *,
        dynamic: bool,
        tolerance: float | None,
        module: nn.Module | None,
    ) -> None:
        self.path = path
        self.dynamic = dynamic
        self.reference = reference
        self.judge = Judge(path, reference, tolerance=tolerance, module=module, timed=self._timed)
        self.outputs = self.judge.outputs
        self.facts: FileFacts | None = None
        self.checker: str | None = None
        self.cases: list[CaseCheck] = []
        self.frozen: tuple[str, ...] = ()
        self.optimizer_fault = False
        self.optimizer_level: str | None = None
        self.samples: list[float] = []
        self.latency: float | None = None
        self.clock = time.perf_counter()
        self.timings = {"checker": 0.0, "session": 0.0, "run": 0.0, "eager": 0.0}

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Turns what ends the verification into the error that callers know."""
        try:
            yield
        except _WrongError as wrong:
            kind = OtherSizesError if wrong.frozen else VerificationError
            raise kind(
                wrong.reason,
                report=self.report(wrong.reason),
                path=self.path,
                stage="verify",
                **({"hint": wrong.hint} if wrong.hint else {}),
            ) from wrong.__cause__

    # The file as it stands

    def structure(self, *, require_tags: bool) -> FileFacts:
        """Checker, interface, tags, and the axes that the file itself calls fixed."""
        with self._timed("checker"):
            facts, self.checker = read_checked(self.path)
        if facts is None or self.checker:
            raise _WrongError(f"onnx.checker refuses the file: {self.checker}")
        self.facts = facts
        wanted = self.reference
        fault = interface_fault(facts, wanted.input_dtypes, wanted.output_dtypes)
        if fault is None and require_tags:
            fault = tag_fault(facts)
        if fault:
            raise _WrongError(fault)
        if self.dynamic:
            self._check_symbolic(facts)
        return facts

    def _check_symbolic(self, facts: FileFacts) -> None:
        fixed = fixed_axes(facts, self.reference.dynamic_axes)
        if fixed:
            self.frozen = tuple(dict.fromkeys(fixed.values()))
            told = f"the file fixes what should vary: {some(list(fixed))}"
            raise _WrongError(told, frozen=True)

    # The numbers

    def numbers(self) -> None:
        """Runs the example, then what the capture never saw."""
        unseen = self._unseen()
        running = self.reference.example
        try:
            session = self._session("all")
            for running in (self.reference.example, *unseen):
                self._check(session, running)
        except _WrongError:
            self._tell_optimizer_apart(running, (self.reference.example, *unseen))
            raise
        self.optimizer_level = "all"
        self._require_evidence()
        self.latency = self._latency(session)

    def _unseen(self) -> list[Case]:
        reference = self.reference
        unseen = [case for case in reference.cases if case.label != EXAMPLE]
        resized = any(case.label == OTHER_SIZES for case in unseen)
        if not self.dynamic:
            unseen = [case for case in unseen if case.sizes == reference.example.sizes]
        elif resized:
            # One run at other sizes is a run on other values too.
            unseen = [case for case in unseen if case.label != OTHER_VALUES]
        elif reference.recipe.other_sizes:
            why = reference.refused.get(OTHER_SIZES, "no case was made")
            raise _WrongError(f"no axis can be shown to be dynamic, at other sizes: {why}")
        if not unseen:
            why = some([f"{label}: {text}" for label, text in reference.refused.items()])
            raise _WrongError(f"there are no inputs but the example's to compare on; {why}")
        return unseen

    def _session(self, level: str) -> Session:
        try:
            with self._timed("session"):
                return Session(self.path, level)
        except RuntimeRefusalError as error:
            raise _WrongError(f"ONNX Runtime {error}") from error

    def _check(self, session: Session, case: Case) -> None:
        """Runs a case and adds it to the evidence; raises where the file is wrong on it."""
        wrong: list[str] = []
        cause: Exception | None = None
        try:
            differences = self._compare(session, case)
        except RuntimeRefusalError as error:
            wrong, cause = [f"ONNX Runtime {error}"], error
        except DrawsError as error:
            wrong = [str(error)]
        else:
            for name, (difference, settled) in differences.items():
                self.outputs[name].add(difference, label=case.label, settled=settled)
                if not difference.right:
                    wrong.append(f"{name}: {difference.reason}")
        if case.label != EXAMPLE:
            self.cases.append(CaseCheck(label=case.label, sizes=dict(case.sizes), ok=not wrong))
        if wrong:
            told = f"{self._where(session, case)}: {some(wrong)}"
            frozen = case.sizes != self.reference.example.sizes
            raise _WrongError(told, frozen=frozen) from cause

    def _compare(self, session: Session, case: Case) -> dict[str, tuple[Difference, bool]]:
        found = self.judge.compare(case, lambda case: self._run(session, case), session.level)
        self._require_comparable()
        return found

    def _run(self, session: Session, case: Case) -> dict[str, Array]:
        with self._timed("run"):
            start = time.perf_counter()
            outputs = session.run(case.inputs)
            if case.label == EXAMPLE:
                self.samples.append(time.perf_counter() - start)
        return outputs

    def _where(self, session: Session, case: Case) -> str:
        example = self.reference.example
        if case.label == EXAMPLE:
            return "wrong on the very inputs that the capture saw"
        if case.sizes == example.sizes:
            return f"right on the example, wrong on inputs the capture did not see ({case.label})"
        changes = ", ".join(
            f"{name} {size} instead of {example.sizes[name]}"
            for name, size in case.sizes.items()
            if size != example.sizes[name]
        )
        self.frozen = tuple(frozen_axes(session, self.reference))
        frozen = f"; frozen in the file: {', '.join(self.frozen)}" if self.frozen else ""
        return f"right on the example, wrong at other sizes ({changes}){frozen}"

    # ONNX Runtime's optimiser

    def _tell_optimizer_apart(self, failed: Case, cases: tuple[Case, ...]) -> None:
        """Raises in the original error's place if the file is right with the optimiser off."""
        if not (self._right_at("off", (failed,)) and self._right_at("off", cases)):
            return
        levels = (level for level in ("extended", "basic") if self._right_at(level, (failed,)))
        self.optimizer_fault = True
        self.optimizer_level = next(levels, "off")
        named = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC"}
        level = named.get(self.optimizer_level, "ORT_ENABLE_EXTENDED")
        raise _WrongError(
            "right with ONNX Runtime's optimiser off and wrong with it on, as it is by default: "
            + some([f"{n}: {s.reason}" for n, s in self.outputs.items() if s.status == "wrong"]),
            f"the file is right where SessionOptions.graph_optimization_level is {level}",
        )

    def _right_at(self, level: str, cases: tuple[Case, ...]) -> bool:
        try:
            session = self._session(level)
            found = [self._compare(session, case) for case in cases]
            return all(item and all(right.right for right, _ in item.values()) for item in found)
        except (RuntimeRefusalError, DrawsError, _WrongError):
            return False

    # The verdict

    def _require_evidence(self) -> None:
        for state in self.outputs.values():
            if state.status in {"right", "set-equal"} and not state.finite:
                state.set_unverifiable("eager PyTorch gives no finite value for it in any case")
        self._require_comparable()

    def _require_comparable(self) -> None:
        if all(state.status == "unverifiable" for state in self.outputs.values()):
            reasons = [f"{name}: {state.reason}" for name, state in self.outputs.items()]
            raise _WrongError(f"no output can be compared; {some(reasons)}")

    def _latency(self, session: Session) -> float:
        while len(self.samples) < LATENCY_RUNS and sum(self.samples) < LATENCY_SECONDS:
            self._run(session, self.reference.example)
        return statistics.median(self.samples)

    def report(self, reason: str) -> VerificationReport:
        """The report as of now; the file is right where there is no reason why not."""
        facts, reference = self.facts, self.reference
        held = self.dynamic and not reason
        return VerificationReport(
            ok=not reason,
            reason=reason,
            dynamic=self.dynamic,
            outputs=tuple(self._output(name) for name in reference.output_names),
            cases=tuple(self.cases),
            dynamic_axes={n: dict(axes) for n, axes in reference.dynamic_axes.items() if held},
            frozen_axes=self.frozen,
            checker=self.checker,
            nodes=facts.nodes if facts else 0,
            untagged=len(facts.untagged) if facts else 0,
            optimizer_fault=self.optimizer_fault,
            optimizer_level=self.optimizer_level,
            opset=facts.opset if facts else 0,
            ort_version=ort.__version__,
            latency_seconds=self.latency,
            seconds=time.perf_counter() - self.clock,
            timings=dict(self.timings),
            notes=(
                *((RANDOM,) if self.judge.replay else ()),
                *(f"{label} left out: {why}" for label, why in reference.refused.items()),
            ),
        )

    def _output(self, name: str) -> OutputCheck:
        shape = self.reference.example.outputs[name].shape
        return self.outputs[name].check(name, self.reference.output_dtypes[name], shape)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] += time.perf_counter() - start
