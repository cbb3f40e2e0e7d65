"""What eager PyTorch is asked, and what is made of its answers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from selector.errors import InvalidRequestError
from selector.inputs import InputSpec
from selector.reference import compute_reference
from tests.references import FIXED_X, X, fixed, inputs, reference_of


def test_refused_example_says_how_to_pass_inputs() -> None:
    with pytest.raises(InvalidRequestError, match=r"refuses the example inputs.*--input name="):
        reference_of(lambda x: x @ x)


def test_forward_without_tensors() -> None:
    with pytest.raises(InvalidRequestError, match="returned no tensor"):
        reference_of(lambda x: {"size": len(x)})


def test_axes_of_outputs_are_named_after_the_inputs() -> None:
    reference = reference_of(
        lambda x: {"same": x, "mean": x.mean(0), "twice": torch.cat([x, x], 1), "sum": x.sum()}
    )
    assert reference.output_axes == {
        "same": {0: "batch_size", 1: "width"},
        "mean": {0: "width"},
        "twice": {0: "batch_size", 1: "twice_dim_1"},
        "sum": {},
    }


def test_axis_that_depends_on_values_is_an_axis_that_varies() -> None:
    reference = reference_of(lambda x: [x[x > 0]], fixed())
    assert reference.output_axes == {"output_0": {0: "output_0_dim_0"}}


def test_output_never_bears_an_inputs_name() -> None:
    assert reference_of(lambda x: {"x": x, "y": x}).output_names == ("x_output", "y")


def test_other_integers_refused_leaves_other_floats() -> None:
    ids = InputSpec(name="ids", axes=(4,), dtype="int64", fill="integers", high=1000)
    first = fixed(FIXED_X, ids).make()["ids"]

    def strict(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        if not torch.equal(ids, first):
            msg = "unknown ids"
            raise ValueError(msg)
        return x * ids.sum()

    reference = reference_of(strict, fixed(FIXED_X, ids))
    unseen = reference.cases[1]
    np.testing.assert_array_equal(unseen.inputs["ids"], reference.example.inputs["ids"])
    assert not np.array_equal(unseen.inputs["x"], reference.example.inputs["x"])


def test_masks_come_with_and_without_padding() -> None:
    mask = InputSpec(name="mask", axes=X.axes, dtype="int64", fill="mask")
    reference = reference_of(lambda x, mask: x * mask, inputs(X, mask))
    padded = {case.label: bool((case.inputs["mask"] == 0).any()) for case in reference.cases}
    assert padded == {
        "example": True,
        "other values": True,
        "other sizes": True,
        "no padding": False,
    }


def test_forwards_are_few() -> None:
    calls: list[torch.Tensor] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x.relu()

    reference_of(counted)
    assert len(calls) == 4
    calls.clear()
    reference_of(counted, unseen=False)
    assert len(calls) == 2


class Oscillating(nn.Linear):
    """Turns errors of its layer's sums into errors of its phase."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        return (super().forward(input) * self.out_features * 100).cos()


def test_noise_is_what_the_model_makes_of_rounding() -> None:
    spec = InputSpec(name="input", axes=("batch_size", 5), dtype="float32", fill="normal")
    calm = compute_reference(nn.Linear(5, 5), inputs(spec))
    assert 0 < calm.noise["output"] < 1e-6
    assert calm.tolerance("output") == 1e-4
    steep = compute_reference(nn.Sequential(nn.Linear(5, 5), Oscillating(5, 5)), inputs(spec))
    assert 1e-4 < steep.tolerance("output") <= 1e-3
    assert not steep.unverifiable


def test_module_that_writes_into_its_input() -> None:
    reference = reference_of(lambda x: x.mul_(2.0))
    np.testing.assert_array_equal(
        reference.example.outputs["output"], reference.example.inputs["x"] * 2
    )


def test_reference_survives_pickling() -> None:
    reference = reference_of(lambda x: x.relu())
    again = pickle.loads(pickle.dumps(reference))  # noqa: S301 - our own bytes
    assert again.output_names == reference.output_names
    np.testing.assert_array_equal(
        again.cases[1].outputs["output"], reference.cases[1].outputs["output"]
    )
