"""What a file returns against eager PyTorch's answers, and what may excuse that they differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selector.comparison import Difference, compare_all
from selector.doubts import examine, first_of_ties, with_draws
from selector.draws import UnknownDrawError
from selector.replaying import Replay
from selector.runtime import Session
from selector.verdict import OutputState

if TYPE_CHECKING:
    from torch import nn

    from selector.comparison import Array
    from selector.reference import Case, Reference

RANDOM = (
    "outputs are random; they were compared on the same random numbers, eager PyTorch's draws in "
    "place of the file's own"
)


class Judge:
    """Compares one file's outputs, and looks into eager PyTorch only where they differ.

    Args:
        path: The file.
        reference: Eager PyTorch's answers.
        tolerance: For all floating outputs, or None for those that their dtypes have.
        module: What the reference was computed from; where None, nothing is excused.
        timed: Counts the seconds of a stage.

    Attributes:
        reference: As given; after an examination with what that found.
        outputs: What is known of each output.
        replay: Set where outputs are random: the file is run on eager's random numbers.
    """

    def __init__(
        self,
        path: Path,
        reference: Reference,
        *,
        tolerance: float | None,
        module: nn.Module | None,
        timed: Callable[[str], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.path = path
        self.tolerance = tolerance
        self.module = module
        self.outputs: dict[str, OutputState] = {}
        self.replay: Replay | None = None
        self._timed = timed
        self._examined = False
        # By the case's identity; they live as long as the reference.
        self._other_answers: dict[int, Case | None] = {}
        self._drawn: dict[int, Case | None] = {}
        self._sessions: dict[str, Session] = {}
        self._hold_against(reference)

    def _hold_against(self, reference: Reference) -> None:
        self.reference = reference
        self.tolerances = {
            name: reference.tolerance(name) if self.tolerance is None else self.tolerance
            for name in reference.output_names
        }
        for name, tolerance in self.tolerances.items():
            self.outputs.setdefault(name, OutputState(tolerance=tolerance)).tolerance = tolerance
        for name, reason in reference.unverifiable.items():
            self.outputs[name].set_unverifiable(reason)

    def compare(
        self, case: Case, run: Callable[[Case], dict[str, Array]], level: str
    ) -> dict[str, tuple[Difference, bool]]:
        """For every verifiable output its difference, and whether ties had to be settled.

        Args:
            case: What to run the file on.
            run: Runs the file as it is.
            level: Of ONNX Runtime's optimiser, for runs on eager's random numbers.

        Raises:
            DrawsError: The file draws other random numbers than forward.
            RuntimeRefusalError: The file does not run.
        """
        if self.replay:
            return self._replayed(case, self.replay, level)
        outputs = run(case)
        found = self._differences(case, outputs)
        if self.module is None or all(difference.right for difference, _ in found.values()):
            return found
        if not self._examined:
            with self._timed("eager"):
                self._examine(self.module)
            if self.replay:
                return self._replayed(case, self.replay, level)
            found = self._differences(case, outputs)
        return self._with_other_ties(case, outputs, found)

    def _examine(self, module: nn.Module) -> None:
        self._examined = True
        found = examine(module, self.reference)
        if found.unverifiable and self._drawn_of(module, self.reference.example):
            self.replay = Replay(self.path)
            found = replace(found, unverifiable={})
        self._hold_against(found)

    def _differences(
        self, case: Case, outputs: Mapping[str, Array]
    ) -> dict[str, tuple[Difference, bool]]:
        unverifiable = self.reference.unverifiable
        ours = {name: item for name, item in case.outputs.items() if name not in unverifiable}
        return compare_all(outputs, ours, self.tolerances)

    # Random numbers

    def _replayed(
        self, case: Case, replay: Replay, level: str
    ) -> dict[str, tuple[Difference, bool]]:
        with self._timed("eager"):
            drawn = self._drawn_of(self.module, case) if self.module else None
        if level not in self._sessions:
            with self._timed("session"):
                self._sessions[level] = replay.session(level)
        with self._timed("run"):
            outputs = replay.run(self._sessions[level], drawn or case)
        return self._differences(drawn or case, outputs)

    def _drawn_of(self, module: nn.Module, case: Case) -> Case | None:
        """The case with forward's random numbers; None where those are not known."""
        if id(case) not in self._drawn:
            try:
                self._drawn[id(case)] = with_draws(module, self.reference, case)
            except UnknownDrawError:
                self._drawn[id(case)] = None
        return self._drawn[id(case)]

    # Ties

    def _with_other_ties(
        self,
        case: Case,
        outputs: Mapping[str, Array],
        found: Mapping[str, tuple[Difference, bool]],
    ) -> dict[str, tuple[Difference, bool]]:
        """The differences from eager's other answer, where ties in forward explain them."""
        known = dict(found)
        wrong = {name for name, (difference, _) in known.items() if not difference.right}
        if not wrong or self.module is None:
            return known
        if id(case) not in self._other_answers:
            with self._timed("eager"):
                self._other_answers[id(case)] = first_of_ties(self.module, self.reference, case)
        other = self._other_answers[id(case)]
        if other is None:
            return known
        told = self._differences(other, outputs)
        if not all(difference.right for difference, _ in told.values()):
            return known
        return {name: (item, name in wrong or ties) for name, (item, ties) in told.items()}
