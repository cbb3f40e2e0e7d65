"""What eager PyTorch is asked, and what is made of its answers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selector.eager import Eager, Weights
from selector.errors import InvalidRequestError
from selector.inputs import ExampleInputs, InputSpec, make_inputs
from selector.reference import compute_reference, has_static_cases, with_static_cases
from selector.source import LoadedModel, ModelSource
from selector.steps import StudyOrder, Subject, study_subject
from selector.weights import WeightStore
from tests.references import FIXED_X, Function, X, fixed, inputs, reference_of


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

    forwards: list[tuple[dict[str, Any], int]] = [
        ({}, 3),
        ({"thorough": False}, 2),
        ({"unseen": False}, 2),
    ]
    for options, count in forwards:
        calls.clear()
        reference_of(counted, **options)
        assert len(calls) == count


LENGTHS = InputSpec(name="x", axes=("batch_size", "length"), dtype="float32", fill="normal")


@pytest.mark.parametrize(("other", "made"), [(7, True), (131, False), (4000, False)])
def test_a_forward_that_depends_on_sizes_gets_a_large_length(other: int, *, made: bool) -> None:
    sizes = {"batch_size": 2, "length": 5}
    recipe = ExampleInputs(
        specs=(LENGTHS,), sizes=sizes, other_sizes={"batch_size": 3, "length": other}
    )
    reference = reference_of(lambda x: x.relu(), recipe, size_dependent=True, thorough=False)
    large = [case for case in reference.cases if case.label == "large sizes"]
    assert [case.sizes for case in large] == ([{**sizes, "length": 131}] if made else [])
    plain = reference_of(lambda x: x.relu(), recipe, thorough=False)
    assert [case.label for case in plain.cases] == ["example", "other sizes"]


def test_a_large_length_that_eager_refuses_is_noted() -> None:
    def short(x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 100:
            msg = "too long"
            raise ValueError(msg)
        return x

    recipe = ExampleInputs(
        specs=(LENGTHS,), sizes={"batch_size": 2, "length": 5}, other_sizes={"length": 7}
    )
    reference = reference_of(short, recipe, size_dependent=True)
    assert reference.refused == {"large sizes": "ValueError: too long"}


def test_answers_that_are_known_are_not_computed_again() -> None:
    calls: list[torch.Tensor] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x.relu()

    eager = Eager(Function(counted))
    assert eager.refusal(inputs()) is None
    reference = compute_reference(eager.module, inputs(), thorough=False, eager=eager)
    assert len(calls) == 2
    other = reference_of(lambda x: x.relu(), thorough=False)
    for mine, theirs in zip(reference.cases, other.cases, strict=True):
        np.testing.assert_array_equal(mine.outputs["output"], theirs.outputs["output"])


def test_without_weights_the_interface_is_the_same() -> None:
    module = nn.Linear(5, 3)
    spec = InputSpec(name="input", axes=("batch_size", 5), dtype="float32", fill="normal")
    real = compute_reference(module, inputs(spec))
    eager = Eager(module, weights=Weights.NEVER)
    void = compute_reference(module, inputs(spec), unseen=False, eager=eager)
    assert eager.guessed
    assert (void.output_dtypes, void.output_axes) == (real.output_dtypes, real.output_axes)
    assert not void.example.outputs["output"].any()


class Positions(nn.Module):
    """Knows eight positions; other sizes ask for the seventeenth."""

    def __init__(self, table: type[nn.Module] = nn.Embedding) -> None:
        super().__init__()
        self.table = table(8, 4)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_values.shape[1])
        result: torch.Tensor = input_values.unsqueeze(-1) * self.table(positions)
        return result


class Rows(nn.Module):
    """A table whose look-up is no embedding."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, width))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.weight[positions]


@pytest.mark.parametrize("table", [nn.Embedding, Rows])
def test_sizes_that_only_a_weightless_run_accepts(table: type[nn.Module]) -> None:
    module = Positions(table).eval()
    source = ModelSource(name="positions", kind="module", origin="")
    loaded = LoadedModel(module=module, config=None, source=source, weights=WeightStore())
    order = StudyOrder(given={"input_values": torch.ones(2, 5)})
    study = study_subject(Subject(loaded=loaded), order)
    assert study.dynamic_axes == {"input_values": {0: "batch_size"}}
    assert study.reference.refused == {}


def test_positions_out_of_range_are_refused_without_weights() -> None:
    module = Positions()
    given = {"input_values": torch.ones(2, 5)}
    eager = Eager(module, weights=Weights.NEVER)
    assert make_inputs(module, None, given=given, eager=eager).other_sizes == {"batch_size": 3}
    assert eager.guessed


def test_static_cases_are_added_when_they_are_needed() -> None:
    mask = InputSpec(name="mask", axes=X.axes, dtype="int64", fill="mask")
    recipe = inputs(X, mask)
    module = Function(lambda x, mask: x * mask)
    few = compute_reference(module, recipe, thorough=False)
    assert [case.label for case in few.cases] == ["example", "other sizes"]
    assert not has_static_cases(few)
    full = with_static_cases(module, few)
    assert has_static_cases(full)
    same = {case.label: case for case in compute_reference(module, recipe).cases}
    assert {case.label for case in full.cases} == same.keys()
    for case in full.cases:
        np.testing.assert_array_equal(case.outputs["output"], same[case.label].outputs["output"])


def test_module_that_writes_into_its_input() -> None:
    reference = reference_of(lambda x: x.mul_(2.0))
    np.testing.assert_array_equal(
        reference.example.outputs["output"], reference.example.inputs["x"] * 2
    )


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.calls: torch.Tensor
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out = x + self.calls if self.last is None else x
        self.last = out
        return out


def test_every_case_begins_with_the_state_that_a_file_is_written_with() -> None:
    module = Counting()
    recipe = make_inputs(module, None, given={"x": torch.randn(2, 3)})
    reference = compute_reference(module, recipe, value_dependent=True)
    assert len(reference.cases) > 3
    for case in reference.cases:
        np.testing.assert_array_equal(case.outputs["output"], case.inputs["x"] + 1)
    assert module.calls.item() == 0
    assert module.last is None


def test_reference_survives_pickling() -> None:
    reference = reference_of(lambda x: x.relu())
    again = pickle.loads(pickle.dumps(reference))  # noqa: S301 - our own bytes
    assert again.output_names == reference.output_names
    np.testing.assert_array_equal(
        again.cases[1].outputs["output"], reference.cases[1].outputs["output"]
    )
