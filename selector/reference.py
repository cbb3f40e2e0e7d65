"""What eager PyTorch makes of a model's inputs: the reference that every file is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from selector.cases import EXAMPLE_SEED, VALUES_SEED
from selector.comparison import TOLERANCES, Array, tolerance_for
from selector.eager import Answer, Eager, dtype_name, to_array
from selector.errors import InvalidRequestError
from selector.plans import (
    EXAMPLE,
    EXTRA_SECONDS,
    OTHER_SIZES,
    OTHER_VALUES,
    Plan,
    larger_plans,
    same_size_plans,
    unseen_plans,
)
from strategies.base import first_line
from strategies.calling import unique_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from selector.draws import Draw
    from selector.inputs import ExampleInputs

# Nor are further cases kept beyond this.
EXTRA_BYTES = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One set of inputs and what eager PyTorch returned for it.

    Attributes:
        label: `example` is what a capture sees; all others are unseen.
        inputs: Arrays under forward's parameter names; bfloat16 stands as float32.
        outputs: Arrays under the reference's output names; bfloat16 stands as float32.
        sizes: Size of every named axis.
        seed: Of torch's generator, from which forward may draw.
        draws: What it drew; known only after `doubts.with_draws`.
    """

    label: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    sizes: Mapping[str, int]
    seed: int = EXAMPLE_SEED
    draws: tuple[Draw, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Eager PyTorch's outputs over several cases; picklable and free of tensors but the recipe's.

    Attributes:
        recipe: What the cases were drawn from.
        cases: The example first.
        input_dtypes: torch's dtype name by input, in forward's order.
        output_dtypes: torch's dtype name by output, in `flatten_outputs`' order.
        output_axes: For each output its axes whose size changes, index to name: the name
            of the input axis of that size, else `{output}_dim_{index}`.
        dynamic_axes: For each input its axes that may vary, index to name.
        precision: The coarsest floating dtype among the model's parameters.
        refused: What eager refused or could not be compared: label, and why.
        seconds: Wall seconds of eager's forward on the example.
        unverifiable: Outputs that eager itself does not reproduce, and why; known only
            after `doubts.examine`.
        noise: How far rounding errors in the model's layers move each output, relative to
            its magnitude; known only after `doubts.examine`.
    """

    recipe: ExampleInputs
    cases: tuple[Case, ...]
    input_dtypes: Mapping[str, str]
    output_dtypes: Mapping[str, str]
    output_axes: Mapping[str, Mapping[int, str]]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    precision: str
    refused: Mapping[str, str]
    seconds: float
    unverifiable: Mapping[str, str] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Forward's parameter names, in its order."""
        return tuple(self.input_dtypes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the flattened outputs, none of them also an input's."""
        return tuple(self.output_dtypes)

    @property
    def example(self) -> Case:
        """The case that a capture sees."""
        return self.cases[0]

    def tolerance(self, name: str) -> float:
        """Default relative tolerance of an output."""
        dtype, noise = self.output_dtypes[name], self.noise.get(name, 0.0)
        return tolerance_for(dtype, self.precision, noise)


def compute_reference(  # noqa: PLR0913 - as many as there are reasons for a case
    module: nn.Module,
    inputs: ExampleInputs,
    *,
    value_dependent: bool = False,
    size_dependent: bool = False,
    thorough: bool = True,
    unseen: bool = True,
    eager: Eager | None = None,
) -> Reference:
    """Runs the module on the example and on inputs that no capture sees.

    Forwards: the example, other values at another size on every axis that varies; where
    asked to be thorough, or where no size varies, other values at the example's sizes and
    values without padding where there are masks; more sets of values where forward branches
    on them; and a large length where it branches or loops on sizes.

    Weights that are mapped from a checkpoint (see `selector.weights`) are read layer by layer
    through the page cache, from which the system may drop them at any time; only activations
    take memory of the process's own.

    Args:
        module: In eval mode.
        inputs: Recipe for the cases.
        value_dependent: Whether forward branches or loops on tensor values.
        size_dependent: Whether it does so on sizes.
        thorough: False for a forward that is known to do the same whatever the values, as
            far as dynamic files are concerned; static ones need `with_static_cases`.
        unseen: False where no file will be verified: runs only what names the outputs'
            axes, and without the weights where that works.
        eager: Runs the module, and may know answers already.

    Raises:
        InvalidRequestError: Eager PyTorch refuses the example itself.
    """
    runs = _Runs(eager or Eager(module), inputs, real=unseen)
    try:
        example = runs.case(EXAMPLE, inputs.make())
    except Exception as error:
        raise InvalidRequestError(_refusal(error)) from error
    cases = [example]
    plans = unseen_plans(
        inputs, value_dependent=value_dependent, size_dependent=size_dependent, thorough=thorough
    )
    refused = runs.extend(cases, [plan for plan in plans if unseen or plan.label == OTHER_SIZES])
    return Reference(
        recipe=inputs,
        cases=tuple(cases),
        input_dtypes=runs.input_dtypes,
        output_dtypes=runs.output_dtypes,
        output_axes=_output_axes(cases, inputs),
        dynamic_axes=inputs.dynamic_axes,
        precision=_precision(module),
        refused=refused,
        seconds=runs.example_seconds,
    )


def has_static_cases(reference: Reference) -> bool:
    """Whether there is what a static file is held against."""
    return OTHER_VALUES in _labels(reference.cases, reference.refused)


def with_static_cases(module: nn.Module, reference: Reference) -> Reference:
    """Adds what a static file is held against: other values at the example's sizes."""
    runs = _Runs(Eager(module), reference.recipe, real=True, known=reference)
    cases = list(reference.cases)
    refused = runs.extend(cases, list(same_size_plans(reference.recipe)))
    return replace(reference, cases=tuple(cases), refused={**reference.refused, **refused})


def with_larger_sizes(
    module: nn.Module, reference: Reference, sizes: Mapping[str, int]
) -> Reference:
    """Adds a case past given sizes, the first of `larger_plans` that eager runs."""
    runs = _Runs(Eager(module), reference.recipe, real=True, known=reference)
    cases = list(reference.cases)
    for plan in larger_plans(reference.recipe, sizes):
        if len(cases) == len(reference.cases):
            runs.extend(cases, [plan])
    return replace(reference, cases=tuple(cases))


def _labels(cases: Sequence[Case], refused: Mapping[str, str]) -> set[str]:
    return {case.label for case in cases} | refused.keys()


class _OtherOutputsError(Exception):
    """The outputs of a case do not have the example's names, dtypes and ranks."""


class _Runs:
    """Makes cases of the model's answers, all with the outputs of the first."""

    def __init__(
        self, eager: Eager, inputs: ExampleInputs, *, real: bool, known: Reference | None = None
    ) -> None:
        self.eager = eager
        self.inputs = inputs
        self.real = real
        self.input_dtypes: Mapping[str, str] = known.input_dtypes if known else {}
        self.output_dtypes: Mapping[str, str] = known.output_dtypes if known else {}
        self.ranks = [array.ndim for array in known.example.outputs.values()] if known else []
        self.example_seconds = known.seconds if known else 0.0
        self.spent = 0.0

    def case(
        self,
        label: str,
        tensors: Mapping[str, torch.Tensor],
        *,
        seed: int = EXAMPLE_SEED,
        sizes: Mapping[str, int] | None = None,
    ) -> Case:
        """Asks the model; the first case decides what all others have to look like."""
        dtypes = {name: dtype_name(tensor) for name, tensor in tensors.items()}
        answer = self.eager.answer(tensors, self.inputs.constants, seed=seed, real=self.real)
        self.spent += answer.seconds
        if not self.output_dtypes:
            self.input_dtypes, self.example_seconds = dtypes, answer.seconds
        return Case(
            label=label,
            inputs=answer.inputs,
            outputs=self._outputs(answer),
            sizes=dict(sizes or self.inputs.sizes),
            seed=seed,
        )

    def extend(self, cases: list[Case], plans: Sequence[Plan]) -> dict[str, str]:
        """Adds a case per plan; returns what eager refused, and why."""
        refused: dict[str, str] = {}
        for plan in plans:
            if plan.extra and (self.spent > EXTRA_SECONDS or _nbytes(cases) > EXTRA_BYTES):
                break
            try:
                tensors = self.inputs.make(seed=plan.seed, sizes=plan.sizes, style=plan.style)
                if not (plan.extra and _known(tensors, cases)):
                    cases.append(self.case(plan.label, tensors, seed=plan.seed, sizes=plan.sizes))
            except Exception as error:  # noqa: BLE001 - a module may refuse values in any way it likes
                refused[plan.label] = first_line(error)
        if OTHER_VALUES in refused:
            cases += self._floats_only(cases[0])
        return refused

    def _floats_only(self, example: Case) -> list[Case]:
        """Other floats beside the example's integers, for modules that accept few integers."""
        kept, drawn = self.inputs.make(), self.inputs.make(seed=VALUES_SEED)
        floats = {name: item for name, item in drawn.items() if item.is_floating_point()}
        if not floats or len(floats) == len(kept):
            return []
        try:
            return [self.case(OTHER_VALUES, kept | floats, seed=VALUES_SEED, sizes=example.sizes)]
        except Exception:  # noqa: BLE001 - a module may refuse values in any way it likes
            return []

    def _outputs(self, answer: Answer) -> dict[str, Array]:
        names = unique_names([name for name, _, _ in answer.outputs], taken=answer.inputs)
        found = dict(zip(names, answer.outputs, strict=True))
        dtypes = {name: dtype for name, (_, dtype, _) in found.items()}
        ranks = [array.ndim for _, _, array in found.values()]
        if not self.output_dtypes:
            self.output_dtypes, self.ranks = dtypes, ranks
        if dtypes != self.output_dtypes or ranks != self.ranks:
            raise _OtherOutputsError("eager PyTorch returned other outputs than for the example")
        return {name: array for name, (_, _, array) in found.items()}


def _refusal(error: BaseException) -> str:
    return (
        f"the model refuses the example inputs: {first_line(error)}; pass your own with "
        "inputs={'name': array} or --input name=shape:dtype"
    )


def _output_axes(cases: list[Case], inputs: ExampleInputs) -> dict[str, dict[int, str]]:
    example = cases[0]
    axes: dict[str, dict[int, str]] = {}
    for name, array in example.outputs.items():
        changed = {
            index
            for case in cases
            for index, size in enumerate(case.outputs[name].shape)
            if size != array.shape[index]
        }
        axes[name] = {
            index: _axis_name(name, index, cases, inputs) or _identifier(f"{name}_dim_{index}")
            for index in sorted(changed)
        }
    return axes


def _axis_name(output: str, index: int, cases: list[Case], inputs: ExampleInputs) -> str | None:
    """The input axis whose size the output's axis has in every case."""
    for axis in inputs.other_sizes:
        if all(case.outputs[output].shape[index] == case.sizes[axis] for case in cases):
            return axis
    return None


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text)
    return f"_{name}" if name[:1].isdigit() else name


def _precision(module: nn.Module) -> str:
    dtypes = {dtype_name(item) for item in module.parameters() if item.is_floating_point()}
    return max(dtypes & TOLERANCES.keys(), key=TOLERANCES.__getitem__, default="float32")


def _known(tensors: Mapping[str, torch.Tensor], cases: list[Case]) -> bool:
    arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
    return any(
        all(np.array_equal(array, case.inputs[name]) for name, array in arrays.items())
        for case in cases
    )


def _nbytes(cases: list[Case]) -> int:
    return sum(array.nbytes for case in cases for array in case.outputs.values())
