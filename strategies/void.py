"""Runs a module without its weights: they have shapes, strides and dtypes, and no values.

For a capture only the operators and the shapes matter. So every parameter becomes a view
into one reserved region of memory that is never touched, and an operator that gets such a
void tensor gives another one, whose shape comes from the operator's meta kernel. Operators
on inputs, masks and positions alone run for real, so branches on those go where they go
in eager PyTorch.
"""

from __future__ import annotations

import functools
import mmap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from strategies import internals, torchscript
from strategies.errors import StrategyUnavailableError, VoidReadError
from strategies.exportable import exportable

aten = torch.ops.aten

# Address space is asked for, not memory; less of it where a system grants no more.
REGION_BYTES = (1 << 42, 1 << 39, 1 << 36)
# What memory a reservation does not count against, where mmap knows it (Linux).
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)

# Answer with values, which a void tensor does not have.
READS = frozenset({aten.equal.default, aten._local_scalar_dense.default, aten.item.default})  # noqa: SLF001 - the operators' names
INDEXING = frozenset({aten.index, aten.index_put, aten.index_put_, aten._unsafe_index})  # noqa: SLF001 - the operator's name

# Look at an argument's shape and dtype only, and give a tensor with values.
CREATION = frozenset(
    getattr(aten, f"{prefix}{name}{suffix}")
    for prefix, suffix in (("new_", ""), ("", "_like"))
    for name in ("empty", "zeros", "ones", "full")
)

_HINT = "a candidate with real weights can follow it"


@contextmanager
def weightless(module: nn.Module) -> Iterator[None]:
    """Within it, the module runs without reading a weight; what it returns is void too.

    Outputs have the right shapes and dtypes; their values mean nothing.

    Raises:
        VoidReadError: From forward, where it reads a value out of a void tensor.
    """
    # Some implementations have meta kernels that accept less than the real ones.
    with (
        exportable(module, plain_attention=False, replacements=guarded({})),
        void_parameters(module),
        void_operators(),
    ):
        yield


@contextmanager
def void_parameters(module: nn.Module) -> Iterator[None]:
    """Within it, the module's parameters are void; only `void_operators` can compute with them.

    Raises:
        VoidReadError: On leaving, where forward gave a parameter other data unseen.
        StrategyUnavailableError: A parameter is of a kind that cannot be void, or torch lacks a
            part that this needs.
    """
    internals.require_supported_torch(internals.WEIGHTLESS)
    parameters = list({id(item): item for item in module.parameters()}.values())
    values = [parameter.data for parameter in parameters]
    _WRITTEN.clear()
    try:
        for parameter in parameters:
            parameter.data = _void(parameter.data)
        yield
        if any(_address(parameter) != _region(_WEIGHTS).data_ptr() for parameter in parameters):
            raise VoidReadError("forward replaces its weights by others", hint=_HINT)
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value


def _void(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        kind = f"{tensor.layout} on {tensor.device}"
        raise StrategyUnavailableError(f"weights of the kind {kind} cannot be void")
    return _like(tensor, _WEIGHTS)


@contextmanager
def void_operators(*, open_sizes: bool = False) -> Iterator[None]:
    """Within it, operators on void tensors give void tensors of the right shape.

    What reads memory without an operator has to be guarded too, see `guarded`.

    Args:
        open_sizes: Whether no size is taken for good, as in a trace: positions of what is
            not zero may then be any number of them.
    """
    with torch.no_grad(), _VoidOperators(open_sizes=open_sizes):
        yield


def refuse_constant(tensor: torch.Tensor) -> None:
    """Raises VoidReadError for a constant of a trace that would need a void tensor's values."""
    if is_void(tensor):
        raise _read("a constant computed from them")


def is_void(tensor: object) -> bool:
    """Whether it is a tensor without values, or one that such a tensor was written into."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        return False
    address = _address(tensor)
    return address in _bases() or address in _WRITTEN


# Real tensors that something void was written into, by address; kept, so that no new tensor
# gets the address of one, until the next module's parameters become void.
_WRITTEN: dict[int, torch.UntypedStorage] = {}
# Weights and what is computed from them lie apart, so that writing into a weight is seen.
_WEIGHTS, _RESULTS = "weights", "results"


@functools.cache
def _bases() -> frozenset[int]:
    return frozenset(_region(name).data_ptr() for name in (_WEIGHTS, _RESULTS))


@functools.cache
def _region(name: str) -> torch.UntypedStorage:
    for size in REGION_BYTES:
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
            memory = mmap.mmap(-1, size, flags=flags)
        except (OSError, ValueError, OverflowError):
            continue
        return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    raise StrategyUnavailableError(f"the system reserves no room for {name}", stage="prepare")


def _guarded(function: Any, call: Any) -> Any:
    """A call for a function, refused where an argument is void or, in a list, holds one."""

    def guarded(first: Any, *args: Any, **kwargs: Any) -> Any:
        direct = function in _READ_SELF and is_void(first)
        listed = [
            item for item in (first, *args, *kwargs.values()) if isinstance(item, list | tuple)
        ]
        leaves: list[Any] = []
        _gather(listed, leaves)
        if direct or any(is_void(item) for item in leaves):
            raise _read(function.__name__)
        return call(first, *args, **kwargs)

    return guarded


# Read memory past the dispatcher, of the tensor itself or of tensors in a list.
_READ_SELF = frozenset(
    getattr(torch.Tensor, name)
    for name in ("tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__complex__")
)
_READ_LISTED = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor})
MEMORY_READS = _READ_SELF | _READ_LISTED


def guarded(replacements: Mapping[Any, Any]) -> dict[Any, Any]:
    """These replacements for `exportable`, and refusals to read the memory of void tensors."""
    guards = {item: _guarded(item, replacements.get(item, item)) for item in MEMORY_READS}
    keys = {item: _keyed(replacements.get(item, item)) for item in _SUBSCRIPTS}
    return {**replacements, **guards, **keys}


def _keyed(call: Any) -> Any:
    """A call for a subscript; torch reads a number in its key, and is left confused if refused."""

    def keyed(tensor: torch.Tensor, key: Any, *value: Any) -> Any:
        if _is_void_number(key) and not value:
            return tensor.index_select(0, key.reshape(1)).squeeze(0)
        if any(map(_is_void_number, key if isinstance(key, tuple) else (key,))):
            raise _read("a number in a subscript")
        return call(tensor, key, *value)

    return keyed


_SUBSCRIPTS = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


def _is_void_number(item: object) -> bool:
    return (
        isinstance(item, torch.Tensor)
        and item.dim() == 0
        and item.dtype is torch.int64
        and is_void(item)
    )


def _like(tensor: torch.Tensor, region: str = _RESULTS) -> torch.Tensor:
    """A void tensor of the same dtype, shape and strides."""
    void = torch.empty(0, dtype=tensor.dtype)
    return void.set_(_region(region), 0, tensor.size(), tensor.stride())


def _address(tensor: torch.Tensor) -> int:
    if tensor.device.type != "cpu":
        return 0
    return tensor.untyped_storage().data_ptr()


class _VoidOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Answers operators on void tensors by their meta kernels, and runs all others."""

    def __init__(self, *, open_sizes: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._open_sizes = open_sizes
        # Layers are repeated, so most operators have been answered before.
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.convolution.default and torchscript.is_tracing():
            # The tracer records convolution one level further down, which is not reached.
            with torchscript.resumed(), self:
                return aten._convolution.default(*args, False, False, True, True)  # noqa: SLF001 - the operator's name
        with torchscript.paused():
            return self._answer(func, args, kwargs)

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        leaves: list[Any] = []
        _gather((args, kwargs), leaves)
        if not any(map(is_void, leaves)):
            return func(*args, **kwargs)
        if func in READS:
            raise _read(str(func))
        if func is aten.nonzero.default and self._open_sizes:
            # As if nothing were zero, so that no branch for an empty selection is taken.
            x = args[0]
            return _like(torch.empty((x.numel(), x.dim()), dtype=torch.int64, device="meta"))
        if torch.is_inference_mode_enabled():
            # There, operators arrive before it is known what of them are views.
            raise _read("inference mode")
        if func.is_view or torch.Tag.inplace_view in func.tags or func.overloadpacket in CREATION:
            return func(*args, **kwargs)
        if func.overloadpacket in INDEXING:
            args = (args[0], self._positions(args[1]), *args[2:])
            leaves.clear()
            _gather((args, kwargs), leaves)
        if func._schema.is_mutable:  # noqa: SLF001 - documented, and has no public name
            _note_written(func, args, kwargs)
            return self._on_meta(func, args, kwargs)
        key = (func, *map(_signature, leaves))
        if key not in self._known:
            self._known[key] = self._on_meta(func, args, kwargs)
        # Every call gives tensors of its own.
        return pytree.tree_map_only(torch.Tensor, _like, self._known[key])

    def _positions(self, indices: Any) -> list[torch.Tensor | None]:
        """Real masks as the positions they select, since the result's shape depends on them."""
        found: list[torch.Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
            elif is_void(index):
                raise _read("a mask that selects elements")
            else:
                found.extend(index.nonzero(as_tuple=True))
        return found

    def _on_meta(self, func: Any, args: Any, kwargs: Any) -> Any:
        metas: dict[int, torch.Tensor] = {}
        originals: dict[int, torch.Tensor] = {}

        def to_meta(item: Any) -> Any:
            if isinstance(item, torch.device):
                return torch.device("meta")
            if not isinstance(item, torch.Tensor):
                return item
            if id(item) not in metas:
                meta = torch.empty_strided(
                    item.size(), item.stride(), dtype=item.dtype, device="meta"
                )
                metas[id(item)] = meta
                originals[id(meta)] = item
            return metas[id(item)]

        metas_in = pytree.tree_map(to_meta, (args, kwargs))
        try:
            outcome = func(*metas_in[0], **metas_in[1])
        except NotImplementedError as error:
            # Where the result's size depends on values, there is no meta kernel.
            raise _read(str(func)) from error

        def from_meta(item: Any) -> Any:
            if not isinstance(item, torch.Tensor) or item.device.type != "meta":
                return item
            original = originals.get(id(item))
            return _like(item) if original is None else _overwritten(original, item)

        return pytree.tree_map(from_meta, outcome)


def _note_written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Marks what an operator writes to as void; writing to a weight is refused."""
    arguments = func._schema.arguments  # noqa: SLF001 - documented, and has no public name
    named = {**dict(zip((item.name for item in arguments), args, strict=False)), **kwargs}
    leaves: list[Any] = []
    written = [item.name for item in arguments if item.alias_info and item.alias_info.is_write]
    _gather([named.get(name) for name in written], leaves)
    for tensor in leaves:
        if not isinstance(tensor, torch.Tensor):
            continue
        if _address(tensor) == _region(_WEIGHTS).data_ptr():
            # A trace shows no write to what lies behind `.data`.
            raise VoidReadError(f"forward writes into its weights ({func})", hint=_HINT)
        if not is_void(tensor):
            _WRITTEN[_address(tensor)] = tensor.untyped_storage()


def _overwritten(original: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
    """The tensor that an operator wrote into, and returned."""
    if original.size() != meta.size():
        raise _read("an operator that resizes its argument")
    return original


def _gather(item: Any, found: list[Any]) -> None:
    """Appends what stands in nested arguments; an operator's are tuples, lists and dicts only."""
    if isinstance(item, (tuple, list)):
        for part in item:
            _gather(part, found)
        # Keeps arguments apart that hold the same in lists of other lengths.
        found.append(len(item))
    elif isinstance(item, dict):
        for name, part in item.items():
            found.append(name)
            _gather(part, found)
    else:
        found.append(item)


def _signature(item: Any) -> Any:
    """What of an argument a meta kernel looks at."""
    if isinstance(item, torch.Tensor):
        return (item.size(), item.stride(), item.dtype)
    return (type(item), item)


def _read(what: str) -> VoidReadError:
    frames = [
        frame
        for frame in traceback.extract_stack()
        if "/torch/" not in frame.filename
        and Path(__file__).parent not in Path(frame.filename).parents
    ]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return VoidReadError(
        f"forward needs a value that depends on the weights ({what}){where}",
        hint=_HINT,
    )
