"""Which candidate to try next, looking closer at the model where that is not sure."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from selector.errors import InvalidRequestError
from selector.hindsight import failures_of
from selector.ranking import rank_candidates
from strategies import registry
from strategies.base import Candidate

if TYPE_CHECKING:
    from selector.chain import Attempt
    from selector.ranker import FittedRanker
    from selector.ranking import Ranking
    from selector.steps import Study, StudyOrder
    from selector.workshop import Workshop


def advise(  # noqa: PLR0913 - the arguments of auto_export that matter here
    workshop: Workshop,
    order: StudyOrder,
    *,
    strategy: str,
    dynamic: bool | str,
    objective: str,
    ranker: str | os.PathLike[str] | FittedRanker | None,
) -> Advice:
    """Studies the loaded model; what is not needed to be sure of the first candidate is left out.

    Raises:
        InvalidRequestError: Inputs cannot be made up, or eager refuses them.
    """
    order = replace(order, closely=False)
    return Advice(
        study=workshop.study(order),
        look_closer=partial(workshop.look_closer, order=order),
        candidates=partial(candidates, strategy=strategy, dynamic=dynamic),
        rank=partial(rank_candidates, objective=objective, ranker=ranker),
    )


def candidates(study: Study, *, strategy: str, dynamic: bool | str) -> tuple[Candidate, ...]:
    """The candidates that the request allows and the model gives sense to.

    Raises:
        InvalidRequestError: Dynamic axes are insisted on and no axis may vary.
    """
    wanted = None if dynamic == "auto" else bool(dynamic)
    if not study.dynamic_axes:
        if wanted:
            raise InvalidRequestError(
                "dynamic axes were asked for, but no axis of this model's inputs may vary: "
                "PyTorch itself refuses every other size"
            )
        wanted = False
    value_dependent = study.features is not None and study.features.value_dependent
    scripting = value_dependent and study.tensors_only
    return tuple(
        candidate
        for candidate in registry.portfolio(dynamic=wanted, scripting=scripting)
        if strategy in ("auto", candidate.strategy)
    )


@dataclass(slots=True)
class Advice:
    """Ranks by what reading the model told, and has it run only where that may matter.

    Attributes:
        study: What is known of the model.
        look_closer: Adds what only a recorded forward tells.
        candidates: Those of a study.
        rank: Orders candidates, see `ranking.rank_candidates`.
    """

    study: Study
    look_closer: Callable[[Study], Study]
    candidates: Callable[[Study], Sequence[Candidate]]
    rank: Callable[..., Ranking]

    def first(self) -> Ranking:
        """The order to begin with."""
        ranking = self.rank(self.study.features, self.candidates(self.study))
        if ranking.sure or len(ranking.order) == 1 or not self._may_look_closer:
            return ranking
        self.study = self.look_closer(self.study)
        return self.rank(self.study.features, self.candidates(self.study))

    def after(self, waiting: Sequence[Candidate], tried: Sequence[Attempt]) -> Sequence[Candidate]:
        """The order of those that are left, now that others failed."""
        if len(waiting) > 1 and self._may_look_closer:
            self.study = self.look_closer(self.study)
        return self.rank(self.study.features, waiting, failed=failures_of(tried)).candidates

    @property
    def _may_look_closer(self) -> bool:
        return self.study.features is not None and not self.study.features.recorded
