"""What eager PyTorch makes of a model's inputs: the reference that every file is held against."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from selector.comparison import TOLERANCES, Array, compare, tolerance_for
from selector.errors import InvalidRequestError
from strategies.base import first_line
from strategies.calling import flatten_outputs

if TYPE_CHECKING:
    from selector.inputs import ExampleInputs

EXAMPLE = "example"
OTHER_VALUES = "other values"
OTHER_SIZES = "other sizes"
# Fills of inputs that say which positions count.
MASK_FILLS = frozenset({"mask", "observed"})
# Where forward branches on values: what may lead it elsewhere, each with several seeds.
VALUE_STYLES = ("positive", "negative", "large", "small")
VALUE_SEEDS = (4, 5, 6)
# Further cases stop here; the first two are always made.
EXTRA_SECONDS = 20.0
EXTRA_BYTES = 512 << 20
# Runs of eager on one machine differ by far less than runtimes do.
REPEAT_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One set of inputs and what eager PyTorch returned for it.

    Attributes:
        label: `example` is what a capture sees; all others are unseen.
        inputs: Arrays under forward's parameter names; bfloat16 stands as float32.
        outputs: Arrays under the reference's output names; bfloat16 stands as float32.
        sizes: Size of every named axis.
    """

    label: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    sizes: Mapping[str, int]


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
        unverifiable: Outputs that eager itself does not reproduce, and why.
        noise: How far rounding errors in the model's layers move each output, relative to
            its magnitude.
        precision: The coarsest floating dtype among the model's parameters.
        refused: What eager refused or could not be compared: label, and why.
        seconds: Wall seconds of eager's forward on the example.
    """

    recipe: ExampleInputs
    cases: tuple[Case, ...]
    input_dtypes: Mapping[str, str]
    output_dtypes: Mapping[str, str]
    output_axes: Mapping[str, Mapping[int, str]]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    unverifiable: Mapping[str, str]
    noise: Mapping[str, float]
    precision: str
    refused: Mapping[str, str]
    seconds: float

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


def compute_reference(
    module: nn.Module, inputs: ExampleInputs, *, value_dependent: bool = False, unseen: bool = True
) -> Reference:
    """Runs the module on the example and on inputs that no capture sees.

    Forwards: the example, the example with rounding errors added (and once more without
    where that moves an output, to see whether eager reproduces itself), other values at the
    example's sizes, other values at another size on every axis that varies, without
    padding where there are masks, and more sets of values where forward branches on them.

    Args:
        module: In eval mode.
        inputs: Recipe for the cases.
        value_dependent: Whether forward branches or loops on tensor values.
        unseen: False where no file will be verified: runs only what names the outputs'
            axes.

    Raises:
        InvalidRequestError: Eager PyTorch refuses the example itself.
    """
    eager = _Eager(module, inputs)
    drawn = inputs.make()
    try:
        example = eager.run(EXAMPLE, drawn)
    except Exception as error:
        raise InvalidRequestError(_refusal(error)) from error
    seconds = eager.seconds
    noise = _noise(eager, example) if unseen else {}
    unverifiable = _unrepeatable(eager, example, noise)
    cases, refused = [example], {}
    for plan in _plans(inputs, value_dependent=value_dependent):
        if not (unseen or plan.label == OTHER_SIZES):
            continue
        if plan.extra and (eager.spent > EXTRA_SECONDS or _nbytes(cases) > EXTRA_BYTES):
            break
        try:
            tensors = inputs.make(seed=plan.seed, sizes=plan.sizes, style=plan.style)
            if not (plan.extra and _known(tensors, cases)):
                cases.append(eager.run(plan.label, tensors, seed=plan.seed, sizes=plan.sizes))
        except Exception as error:  # noqa: BLE001 - a module may refuse values in any way it likes
            refused[plan.label] = first_line(error)
    if OTHER_VALUES in refused:
        cases += _floats_only(eager, example)
    return Reference(
        recipe=inputs,
        cases=tuple(cases),
        input_dtypes=eager.input_dtypes,
        output_dtypes=eager.output_dtypes,
        output_axes=_output_axes(cases, inputs),
        dynamic_axes=inputs.dynamic_axes,
        unverifiable=unverifiable,
        noise=noise,
        precision=_precision(module),
        refused=refused,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    label: str
    seed: int
    style: str = "example"
    sizes: Mapping[str, int] | None = None
    extra: bool = True


def _plans(inputs: ExampleInputs, *, value_dependent: bool) -> Iterator[_Plan]:
    yield _Plan(OTHER_VALUES, seed=1, extra=False)
    if inputs.other_sizes:
        sizes = {**inputs.sizes, **inputs.other_sizes}
        yield _Plan(OTHER_SIZES, seed=2, sizes=sizes, extra=False)
    if any(spec.fill in MASK_FILLS for spec in inputs.specs):
        yield _Plan("no padding", seed=3, style="unpadded")
    if value_dependent:
        for seed in VALUE_SEEDS:
            for style in VALUE_STYLES:
                yield _Plan(f"{style} values, seed {seed}", seed=seed, style=style)


class _OtherOutputsError(Exception):
    """The outputs of a case do not have the example's names, dtypes and ranks."""


class _Eager:
    """Runs the module on cases, all with the outputs of the first."""

    def __init__(self, module: nn.Module, inputs: ExampleInputs) -> None:
        self.module = module
        self.inputs = inputs
        self.input_dtypes: dict[str, str] = {}
        self.output_dtypes: dict[str, str] = {}
        self.ranks: list[int] = []
        self.seconds = 0.0
        self.spent = 0.0

    def run(
        self,
        label: str,
        tensors: Mapping[str, torch.Tensor],
        *,
        seed: int = 0,
        sizes: Mapping[str, int] | None = None,
    ) -> Case:
        """Calls the module with torch's generator at `seed`."""
        # Copied first: a module may write into its inputs.
        arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            clock = time.perf_counter()
            outputs = flatten_outputs(self.module(**tensors, **self.inputs.constants))
            self.seconds = time.perf_counter() - clock
            self.spent += self.seconds
        if not self.output_dtypes:
            self.input_dtypes = {name: _dtype(tensor) for name, tensor in tensors.items()}
        return Case(
            label=label,
            inputs=arrays,
            outputs=self._outputs(outputs, arrays),
            sizes=dict(sizes or self.inputs.sizes),
        )

    def _outputs(
        self, outputs: list[tuple[str, torch.Tensor]], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        names = _unique([name for name, _ in outputs], taken=inputs)
        dtypes = {name: _dtype(item) for name, (_, item) in zip(names, outputs, strict=True)}
        ranks = [item.ndim for _, item in outputs]
        if not self.output_dtypes:
            self.output_dtypes, self.ranks = dtypes, ranks
        if dtypes != self.output_dtypes or ranks != self.ranks:
            raise _OtherOutputsError("eager PyTorch returned other outputs than for the example")
        return {name: to_array(item) for name, (_, item) in zip(names, outputs, strict=True)}


def _refusal(error: BaseException) -> str:
    return (
        f"the model refuses the example inputs: {first_line(error)}; pass your own with "
        "inputs={'name': array} or --input name=shape:dtype"
    )


def _noise(eager: _Eager, example: Case) -> dict[str, float]:
    """How far each output moves when every layer's result is off by its dtype's epsilon."""
    generator = torch.Generator().manual_seed(0)

    def disturbed(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        return tensor * (1 + torch.finfo(tensor.dtype).eps * noise.to(tensor))

    def hook(layer: nn.Module, _: object, output: object) -> torch.Tensor | None:
        leaf = next(layer.children(), None) is None
        if leaf and isinstance(output, torch.Tensor) and output.is_floating_point():
            return disturbed(output)
        return None

    tensors = eager.inputs.make()
    # torch annotates no result, and documents that one replaces the output.
    handle = register_module_forward_hook(hook)  # type: ignore[arg-type]
    try:
        moved = eager.run(EXAMPLE, tensors, seed=1).outputs
    except Exception:  # noqa: BLE001 - a module may refuse disturbed values in any way it likes
        return dict.fromkeys(example.outputs, math.inf)
    finally:
        handle.remove()
    return {
        name: compare(moved[name], expected, 0.0).max_rel_error
        for name, expected in example.outputs.items()
    }


def _unrepeatable(eager: _Eager, example: Case, noise: Mapping[str, float]) -> dict[str, str]:
    bounds = {
        name: REPEAT_SHARE * tolerance_for(eager.output_dtypes[name], "float32") for name in noise
    }
    if all(noise[name] <= bound for name, bound in bounds.items()):
        return {}
    again = eager.run(EXAMPLE, eager.inputs.make(), seed=2)
    found = {}
    for name, bound in bounds.items():
        difference = compare(again.outputs[name], example.outputs[name], bound)
        if not difference.right:
            found[name] = f"eager PyTorch does not reproduce it: {difference.reason}"
    return found


def _floats_only(eager: _Eager, example: Case) -> list[Case]:
    """Other floats beside the example's integers, for modules that accept few integers."""
    kept, drawn = eager.inputs.make(), eager.inputs.make(seed=1)
    floats = {name: item for name, item in drawn.items() if item.is_floating_point()}
    if not floats or len(floats) == len(kept):
        return []
    try:
        return [eager.run(OTHER_VALUES, kept | floats, seed=1, sizes=example.sizes)]
    except Exception:  # noqa: BLE001 - a module may refuse values in any way it likes
        return []


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


def _unique(names: list[str], *, taken: Mapping[str, object]) -> list[str]:
    """An ONNX graph holds every name once, inputs and outputs together."""
    used = set(taken)
    unique = []
    for name in names:
        free = name
        number = 0
        while free in used:
            number += 1
            free = f"{name}_output" if number == 1 else f"{name}_output_{number}"
        used.add(free)
        unique.append(free)
    return unique


def _precision(module: nn.Module) -> str:
    dtypes = {_dtype(item) for item in module.parameters() if item.is_floating_point()}
    return max(dtypes & TOLERANCES.keys(), key=TOLERANCES.__getitem__, default="float32")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def to_array(tensor: torch.Tensor) -> Array:
    """A copy as NumPy; floats that NumPy lacks, such as bfloat16, become float32."""
    value = tensor.detach()
    if value.is_floating_point() and _dtype(value) not in {"float16", "float32", "float64"}:
        value = value.float()
    return np.array(value.numpy(force=True))


def _known(tensors: Mapping[str, torch.Tensor], cases: list[Case]) -> bool:
    arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
    return any(
        all(np.array_equal(array, case.inputs[name]) for name, array in arrays.items())
        for case in cases
    )


def _nbytes(cases: list[Case]) -> int:
    return sum(array.nbytes for case in cases for array in case.outputs.values())
