"""What eager PyTorch is asked again, where a file is not clearly right."""

from __future__ import annotations

import torch
from torch import nn

from selector.doubts import examine
from selector.inputs import InputSpec
from selector.reference import compute_reference
from tests.references import Function, inputs

SPEC = InputSpec(name="input", axes=("batch_size", 5), dtype="float32", fill="normal")


class Oscillating(nn.Linear):
    """Turns errors of its layer's sums into errors of its phase."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        return (super().forward(input) * self.out_features * 100).cos()


def test_noise_is_what_the_model_makes_of_rounding() -> None:
    calm = nn.Linear(5, 5)
    found = examine(calm, compute_reference(calm, inputs(SPEC)))
    assert 0 < found.noise["output"] < 1e-6
    assert found.tolerance("output") == 1e-4
    steep = nn.Sequential(nn.Linear(5, 5), Oscillating(5, 5))
    found = examine(steep, compute_reference(steep, inputs(SPEC)))
    assert 1e-4 < found.tolerance("output") <= 1e-3
    assert not found.unverifiable


def test_chance_excuses_the_output_it_is_in() -> None:
    module = Function(lambda x: {"noisy": nn.functional.dropout(x), "clean": x.tanh()})
    found = examine(module, compute_reference(module, inputs()))
    assert found.unverifiable.keys() == {"noisy"}


def test_a_module_that_has_changed_excuses_nothing() -> None:
    first = nn.Linear(5, 5)
    module = nn.Sequential(first, Oscillating(5, 5))
    reference = compute_reference(module, inputs(SPEC))
    with torch.no_grad():
        first.weight.mul_(1.01)
    found = examine(module, reference)
    assert not found.unverifiable
    assert found.tolerance("output") == 1e-4


def test_a_module_that_refuses_noise_may_have_the_widest_tolerance() -> None:
    class Strict(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 5)
            self.checked = nn.Identity()
            self.seen: list[torch.Tensor] = []

        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
            if not torch.equal(self.checked(input), input):
                msg = "not what was passed"
                raise ValueError(msg)
            result: torch.Tensor = super().forward(input)
            return result

    module = Strict()
    found = examine(module, compute_reference(module, inputs(SPEC)))
    assert found.tolerance("output") == 1e-3
