"""Orders of candidates on models that were measured, and what they cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from selector import training
from selector.orders import Spent, fixed, spend, static, virtual_best
from selector.single_best import single_best
from selector.training import Row
from strategies.base import Candidate
from strategies.registry import portfolio
from tests import synthetic

FEATURES = synthetic.model_features()
A, B, C = (Candidate(strategy=name) for name in "abc")
LATE = replace(C, dynamic=False)


def row(candidate: Candidate, seconds: float, model: str = "m", *, right: bool = False) -> Row:
    return Row(
        model=model, features=FEATURES, candidate=candidate, success=right,
        failure=None if right else "lower", timed_out=False, seconds=seconds, qualities={},
    )  # fmt: skip


def test_attempts_add_up_to_the_first_success() -> None:
    rows = [row(A, 1.0), row(B, 2.0, right=True), row(C, 4.0, right=True)]
    assert spend(rows, fixed([A, B, C])).seconds == 3.0
    assert spend(rows, fixed([C, A, B])).attempts == 1
    assert spend(rows, fixed([A])) == Spent(1.0, 1, solved=False, first_right=False)


def test_a_static_file_where_a_dynamic_one_was_to_be_had_solves_nothing() -> None:
    static = replace(A, dynamic=False)
    rows = [row(static, 1.0, right=True), row(B, 2.0, right=True)]
    assert spend(rows, fixed([static, B])) == Spent(
        3.0, 2, solved=True, first_right=False, lost_axes=True
    )
    assert spend(rows[:1], fixed([static])) == Spent(1.0, 1, solved=True, first_right=True)


def test_the_oracle_takes_the_fastest_one_and_dynamic_ones_first() -> None:
    rows = [
        row(A, 1.0),
        row(B, 3.0, right=True),
        row(C, 2.0, right=True),
        row(LATE, 0.1, right=True),
    ]
    assert virtual_best(rows) == [C]
    assert virtual_best([rows[0], rows[3]]) == [LATE]


def test_the_static_order_is_the_registrys() -> None:
    offered = list(portfolio())
    assert static(FEATURES, offered[::-1]) == offered


def test_the_single_best_order_is_the_cheapest_of_all() -> None:
    rows, _ = training.rows_of(synthetic.records(per_family=3))
    models = [
        [item for item in rows if item.model == name] for name in {item.model for item in rows}
    ]

    def cost(order: list[Candidate]) -> float:
        return sum(_plainly(model, order) for model in models)

    best = single_best(models)
    offered = {item.candidate for item in rows}
    assert set(best) == offered
    assert [item.dynamic for item in best] == sorted((item.dynamic for item in best), reverse=True)
    first, rest = ([item for item in best if item.dynamic == dynamic] for dynamic in (True, False))
    assert cost(best) == pytest.approx(
        min(cost([*order, *rest]) for order in itertools.permutations(first))
    )


def _plainly(rows: list[Row], order: list[Candidate]) -> float:
    by_candidate = {item.candidate: item for item in rows}
    total = 0.0
    for candidate in order:
        if candidate in by_candidate:
            total += by_candidate[candidate].seconds or 0.0
            if by_candidate[candidate].success:
                break
    return total
