"""Runs a forward once, without weights where that works, and notes operators and value reads."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from selector.eager import unchanged
from selector.errors import AnalysisError
from strategies.base import first_line
from strategies.calling import buffers_restored
from strategies.errors import StrategyError
from strategies.exportable import exportable
from strategies.void import weightless

TORCH = str(Path(torch.__file__).parent)
_REPLACING = sys.modules[exportable.__module__].__file__
READ = "aten._local_scalar_dense.default"
FRAMES_KEPT = 4

Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one forward did.

    Attributes:
        operators: How often each aten operator ran, by name with overload.
        calls: How often each torch function was called, by name; these are what a
            TorchScript trace sees, before composite ones are taken apart.
        reads: Where the values of tensors that depend on the inputs were read: for each
            read the file and line, and those of its callers up to the forward.
        reads_weights: Whether it took the values of the weights to get through forward.
        complete: Whether the forward ran to its end.
        note: Why it did not run on fake tensors, or not to its end.
    """

    operators: Mapping[str, int]
    calls: Mapping[str, int]
    reads: tuple[tuple[Place, ...], ...] = ()
    reads_weights: bool = False
    complete: bool = True
    note: str | None = None


def record_forward(
    module: nn.Module, inputs: Mapping[str, Any], prepare: Callable[[], object] = lambda: None
) -> Recording:
    """Runs forward on fake tensors, and where it reads values, on real ones.

    A forward that runs to its end on fake tensors reads no values, so no branch of it
    depends on any. The module is left as it was.

    Args:
        module: In eval mode.
        inputs: Tensors and constants under forward's parameter names.
        prepare: Makes the weights' values available; called before a run that needs them.

    Raises:
        AnalysisError: The forward runs neither way.
    """
    with (
        torch.no_grad(),
        _plain_kernels(),
        _untouched(module),
        exportable(module, plain_attention=True),
        _silent(),
    ):
        watch = _Watch()
        try:
            _run_fake(module, inputs, watch)
        except Exception as error:  # noqa: BLE001 - models and torch's shape functions raise anything
            where = _place_of(error)
            reason = f"{first_line(error, 160)} at {_shown(where)}"
        else:
            return watch.recording()
        if any(tensor.is_meta for tensor in _state(module).values()):
            reads = (where,) if where else ()
            return watch.recording(reads=reads, complete=False, note=f"stopped by {reason}")
        note = f"run on real values, as tensors without data do not do: {reason}"
        try:
            with weightless(module), unchanged(module):
                return _record_values(module, inputs, note)
        except (AnalysisError, StrategyError):
            # Values of the weights are needed as well.
            prepare()
            return replace(_record_values(module, inputs, note), reads_weights=True)


def _run_fake(module: nn.Module, inputs: Mapping[str, Any], watch: _Watch) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if not _is_tensor(value):
            return value
        if value.is_meta:
            # Weights that are not in memory count as if they were, on the inputs' device.
            with mode:
                return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        return mode.from_tensor(value, static_shapes=True)

    state = {name: fake(tensor) for name, tensor in _state(module).items()}
    arguments = {name: pytree.tree_map(fake, value) for name, value in inputs.items()}
    with mode, watch.watching():
        torch.func.functional_call(module, state, (), arguments)


def _record_values(module: nn.Module, inputs: Mapping[str, Any], note: str) -> Recording:
    watch = _Watch()
    watch.follow([value for value in pytree.tree_leaves(inputs) if _is_tensor(value)])
    try:
        with watch.watching():
            module(**inputs)
    except Exception as error:
        reason = f"it fails on the example inputs: {first_line(error)}"
        raise AnalysisError(f"the forward cannot be analysed, as {reason}") from error
    return watch.recording(reads=tuple(watch.reads), note=note)


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return dict(named)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


@dataclass(slots=True)
class _Watch:
    """Counts operators and calls, and follows which tensors depend on the inputs."""

    operators: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    reads: list[tuple[Place, ...]] = field(default_factory=list)
    followed: WeakIdKeyDictionary | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with _Calls(self), _Operators(self):
            yield

    def follow(self, tensors: list[torch.Tensor]) -> None:
        self.followed = WeakIdKeyDictionary()
        for tensor in tensors:
            self.followed[tensor] = True

    def saw(self, name: str, arguments: list[Any], results: list[Any]) -> None:
        """Notes one operator and carries dependence on from its arguments to its results."""
        self.operators[name] += 1
        if self.followed is None:
            return
        tensors = [value for value in arguments if _is_tensor(value)]
        if not any(tensor in self.followed for tensor in tensors):
            return
        if name == READ:
            self.reads.append(_places(sys._getframe(2)))  # noqa: SLF001 - the standard way to one's callers
        written = tensors if name.split(".")[1].endswith("_") else []
        for tensor in [*results, *written]:
            if _is_tensor(tensor):
                self.followed[tensor] = True

    def recording(
        self,
        *,
        reads: tuple[tuple[Place, ...], ...] = (),
        complete: bool = True,
        note: str | None = None,
    ) -> Recording:
        return Recording(
            operators=dict(sorted(self.operators.items())),
            calls=dict(sorted(self.calls.items())),
            reads=reads,
            complete=complete,
            note=note,
        )


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Sees every aten operator below autograd."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if func.namespace != "aten":
            return func(*args, **kwargs)
        if self.watch.followed is None:
            self.watch.operators[str(func)] += 1
            return func(*args, **kwargs)
        results = func(*args, **kwargs)
        self.watch.saw(str(func), pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(results))
        return results


class _Calls(TorchFunctionMode):
    """Sees every torch function as Python calls it."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.watch.calls[getattr(func, "__name__", "")] += 1
        return func(*args, **(kwargs or {}))


def _places(frame: FrameType | None) -> tuple[Place, ...]:
    """File and line of a read in the model's code, and of its callers up to the forward."""
    places: list[Place] = []
    while frame is not None and len(places) < FRAMES_KEPT:
        file = frame.f_code.co_filename
        if not _is_ours(file):
            places.append((file, frame.f_lineno))
            if frame.f_code.co_name == "forward":
                break
        frame = frame.f_back
    return tuple(places)


def _is_ours(file: str) -> bool:
    """Whether it is torch, or what stands between torch and the model's code here."""
    return file.startswith(TORCH) or file in {__file__, _REPLACING}


def _place_of(error: BaseException) -> tuple[Place, ...]:
    """The same for the place where an exception was raised."""
    frames: list[tuple[FrameType, int]] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    places: list[Place] = []
    for frame, line in reversed(frames):
        file = frame.f_code.co_filename
        if _is_ours(file):
            continue
        places.append((file, line))
        if frame.f_code.co_name == "forward" or len(places) == FRAMES_KEPT:
            break
    return tuple(places)


def _shown(places: tuple[Place, ...]) -> str:
    return f"{Path(places[0][0]).name}:{places[0][1]}" if places else "an unknown place"


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Takes back whatever a forward stores on its modules or writes into their buffers."""
    with buffers_restored(module), unchanged(module):
        yield


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without oneDNN, whose fused operators no capture sees.

    `mkldnn.flags` would also set what this processor has no use for, and warn of it.
    """
    set_flags: Any = torch.backends.mkldnn.set_flags
    enabled, *_ = set_flags(_enabled=False, _fp32_precision=None)
    try:
        yield
    finally:
        set_flags(_enabled=enabled, _fp32_precision=None)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps torch from printing the traceback of an operator that fake tensors lack."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = disabled
