"""Forty models of the zoo end as they are expected to: what a change breaks or mends shows."""

from __future__ import annotations

import pytest

from scripts import zoo_slice
from scripts.collection_task import measure_model

EXPECTED = zoo_slice.expected()
RENEW = "if that is meant, write tests/zoo_slice.json anew: python -m scripts.zoo_slice"


def test_the_forty_are_those_that_the_rule_chooses() -> None:
    assert len(EXPECTED) == sum(zoo_slice.COUNTS.values()) == 40
    assert tuple(EXPECTED) == zoo_slice.chosen(), f"the zoo has changed; {RENEW}"


@pytest.mark.parametrize("name", EXPECTED)
def test_model_ends_as_expected(name: str) -> None:
    entry = measure_model(name, zoo_slice.settings_of(name, EXPECTED))
    found = zoo_slice.outcomes(entry)
    why = "".join(f"\n  {reason}" for reason in zoo_slice.reasons(entry))
    was = EXPECTED[name]
    assert found == was, f"{name} was {was}, now {found}; {RENEW} {name}{why}"
