"""The plain modules of the zoo run as they are listed, at both sizes, and stay small."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from scripts.plain_modules import PLAIN, THEMES
from strategies.calling import flatten_outputs

MOST_BYTES = 1_000_000

# oneDNN lacks the projection, and torch says so once.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def test_there_are_at_least_64_and_no_name_twice() -> None:
    assert len(PLAIN) >= 64
    assert len(PLAIN) == sum(len(theme.MODULES) for theme in THEMES)


def outputs(name: str, *, second: bool = False) -> list[tuple[str, torch.Tensor]]:
    module, _ = PLAIN[name]()
    with torch.no_grad():
        return list(flatten_outputs(module(**PLAIN[name].draw(second=second))))


@pytest.mark.parametrize("name", PLAIN)
def test_runs_at_both_sizes_and_the_same_each_time(name: str) -> None:
    first, again = outputs(name), outputs(name)
    assert first
    for (_, one), (_, other) in zip(first, again, strict=True):
        assert torch.equal(one, other)
    if PLAIN[name].dynamic_axes:
        assert [key for key, _ in outputs(name, second=True)] == [key for key, _ in first]


@pytest.mark.parametrize("name", PLAIN)
def test_is_small_and_in_eval_mode(name: str) -> None:
    module, _ = PLAIN[name]()
    tensors = [*module.parameters(), *module.buffers()]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) < MOST_BYTES
    assert not any(part.training for part in module.modules())


def test_most_have_axes_that_vary() -> None:
    dynamic = [name for name, plain in PLAIN.items() if plain.dynamic_axes]
    assert len(dynamic) > 0.95 * len(PLAIN)


def test_no_module_is_left_over() -> None:
    used = {type(part) for plain in PLAIN.values() for part in plain()[0].modules()}
    used |= {parent for kind in used for parent in kind.__mro__}
    for theme in THEMES:
        written = {
            kind
            for _, kind in inspect.getmembers(theme, inspect.isclass)
            if issubclass(kind, nn.Module) and kind.__module__ == theme.__name__
        }
        assert written <= used
