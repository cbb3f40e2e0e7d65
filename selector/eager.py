"""Runs a model eagerly, with its weights or without them, and remembers what it answered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from strategies.calling import buffers_restored, flatten_outputs
from strategies.errors import StrategyError
from strategies.void import is_void, weightless

if TYPE_CHECKING:
    from selector.cases import ExampleInputs
    from selector.comparison import Array


class Weights(Enum):
    """When trying out inputs costs a forward with real weights.

    `REAL` always; `FIRST` until a first refusal, as what is accepted at once is needed as
    reference anyway; `NEVER` only where forward reads values out of its weights.
    """

    REAL = "real"
    FIRST = "first"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model returned for one set of inputs.

    Attributes:
        inputs: Arrays under forward's parameter names, as they were before the run.
        outputs: Name, torch's dtype name and array of each, in `flatten_outputs`' order;
            arrays are all zero, and take no memory, where the run was weightless.
        seconds: Wall seconds of the forward.
        real: Whether the run was with real weights.
        calls: How many torch functions forward called.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[tuple[str, str, Array], ...]
    seconds: float
    real: bool
    calls: int


class Eager:
    """One model and its answers.

    Args:
        module: In eval mode.
        weights: When trying out inputs takes real weights.
        prepare: Makes the weights' values available; called before a real run.

    Attributes:
        guessed: Whether any inputs were judged by a weightless run.
        seconds: Wall seconds that runs took.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        weights: Weights = Weights.REAL,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self.module = module
        self.weights = weights
        self.guessed = False
        self.seconds = 0.0
        self._prepare = prepare
        self._answers: list[tuple[Mapping[str, object], int, Answer]] = []

    def refusal(
        self, inputs: ExampleInputs, *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> Exception | None:
        """Runs the model once; what it raised, or None where it ran and returned tensors."""
        try:
            tensors = inputs.make(seed=seed, sizes=sizes)
            self.answer(
                tensors, inputs.constants, seed=seed, real=self.weights is not Weights.NEVER
            )
        except Exception as error:  # noqa: BLE001 - a model refuses inputs in any way it likes
            if self.weights is Weights.FIRST:
                self.weights = Weights.NEVER
            return error
        return None

    def form(
        self, inputs: ExampleInputs, *, seed: int = 0, sizes: Mapping[str, int] | None = None
    ) -> list[tuple[str, str, int]]:
        """Name, dtype and rank of each output on inputs that `refusal` did not refuse."""
        tensors = inputs.make(seed=seed, sizes=sizes)
        real = self.weights is not Weights.NEVER
        found = self.answer(tensors, inputs.constants, seed=seed, real=real)
        return [(name, dtype, array.ndim) for name, dtype, array in found.outputs]

    def answer(
        self,
        tensors: Mapping[str, torch.Tensor],
        constants: Mapping[str, object],
        *,
        seed: int,
        real: bool = True,
    ) -> Answer:
        """The model's answer, from memory where it was asked the same before.

        Args:
            tensors: Under forward's parameter names.
            constants: Python values of further parameters.
            seed: Of torch's generator.
            real: Whether the outputs' values are wanted, not only their shapes.

        Raises:
            Exception: Whatever forward raises.
        """
        # Copied first: a module may write into its inputs.
        arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
        for bound, used, known in self._answers:
            same = (bound, used) == (constants, seed) and _equal(known.inputs, arrays)
            if same and (known.real or not real):
                return known
        found = self._run(arrays, tensors, constants, seed, real=real)
        self._answers.append((constants, seed, found))
        return found

    def again(
        self, tensors: Mapping[str, torch.Tensor], constants: Mapping[str, object], *, seed: int
    ) -> Answer:
        """The same with real weights, run anew and not remembered."""
        arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
        return self._run(arrays, tensors, constants, seed, real=True)

    def _run(
        self,
        arrays: Mapping[str, Array],
        tensors: Mapping[str, torch.Tensor],
        constants: Mapping[str, object],
        seed: int,
        *,
        real: bool,
    ) -> Answer:
        if not real:
            copies = {name: tensor.clone() for name, tensor in tensors.items()}
            # Where forward needs values of its weights, only a real run can tell.
            with contextlib.suppress(StrategyError, NotImplementedError):
                with unchanged(self.module), weightless(self.module), _InRange():
                    found = self._call(arrays, copies, constants, seed, shapes_only=True)
                self.guessed = True
                return found
        self._prepare()
        # Every case begins with the buffers that a file is written with.
        with unchanged(self.module), buffers_restored(self.module):
            return self._call(arrays, tensors, constants, seed, shapes_only=False)

    def _call(
        self,
        arrays: Mapping[str, Array],
        tensors: Mapping[str, torch.Tensor],
        constants: Mapping[str, object],
        seed: int,
        *,
        shapes_only: bool,
    ) -> Answer:
        read = shape_array if shapes_only else to_array
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            clock = time.perf_counter()
            with _Calls() as counted:
                outputs = flatten_outputs(self.module(**tensors, **constants))
            seconds = time.perf_counter() - clock
        self.seconds += seconds
        return Answer(
            inputs=arrays,
            outputs=tuple((name, dtype_name(item), read(item)) for name, item in outputs),
            seconds=seconds,
            real=not shapes_only,
            calls=counted.calls,
        )


class _Calls(TorchFunctionMode):
    """Counts what forward calls of torch, and refuses attention to more keys than values.

    Torch's own kernel for CPUs looks at the keys' length only, and reads past shorter values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if func is nn.functional.scaled_dot_product_attention:
            _require_pairs(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _require_pairs(
    query: torch.Tensor,  # noqa: ARG001 - torch's argument
    key: torch.Tensor,
    value: torch.Tensor,
    *_: object,
    **__: object,
) -> None:
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"attention to {key.shape[-2]} keys and {value.shape[-2]} values")


class _InRange(TorchFunctionMode):
    """Refuses indices beyond a weightless table as the real one would: positions, for instance."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.embedding, nn.functional.embedding):
            table, indices = args[:2] if func is torch.embedding else (args[1], args[0])
            if not is_void(indices) and _beyond(indices, table.shape[0]):
                raise IndexError("index out of range in self")
        return func(*args, **(kwargs or {}))


def _beyond(indices: torch.Tensor, rows: int) -> bool:
    return indices.numel() > 0 and not 0 <= int(indices.min()) <= int(indices.max()) < rows


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Takes back whatever a forward stores on its modules, such as tensors without values.

    Their tables keep their identity: parameters, hooks that a forward installs, caches.
    """
    saved = [(item, dict(item.__dict__), _tables(item)) for item in module.modules()]
    try:
        yield
    finally:
        for item, attributes, tables in saved:
            item.__dict__.clear()
            item.__dict__.update(attributes)
            for name, entries in tables.items():
                item.__dict__[name].clear()
                item.__dict__[name].update(entries)


def _tables(module: nn.Module) -> dict[str, dict[object, object]]:
    return {name: dict(value) for name, value in module.__dict__.items() if isinstance(value, dict)}


def to_array(tensor: torch.Tensor) -> Array:
    """A copy as NumPy; floats that NumPy lacks, such as bfloat16, become float32."""
    value = tensor.detach()
    if value.is_floating_point() and dtype_name(value) not in {"float16", "float32", "float64"}:
        value = value.float()
    return np.array(value.numpy(force=True))


def shape_array(tensor: torch.Tensor) -> Array:
    """An array of the tensor's shape and dtype, all zero, that takes no memory."""
    return np.broadcast_to(to_array(torch.zeros((), dtype=tensor.dtype)), tensor.shape)


def dtype_name(tensor: torch.Tensor) -> str:
    """The name of its dtype, `float32` and such."""
    return str(tensor.dtype).removeprefix("torch.")


def _equal(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    return arrays.keys() == others.keys() and all(
        array.dtype == others[name].dtype and np.array_equal(array, others[name])
        for name, array in arrays.items()
    )
