"""A checkpoint's tensors without reading them: mapped files, and room for what needs converting."""

from __future__ import annotations

import bisect
import math
import mmap
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from selector import checkpoint
from strategies.stored import ITEM_BYTES, StoredTensor

# safetensors' names of what torch and ONNX can both hold.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Models compute in float32, so these take room of their own in memory.
HALVES = (torch.float16, torch.bfloat16)

# Lets a mapping be larger than memory. Its number differs on other machines, and Python names
# it from 3.13 on.
_USUAL = 0x4000 if platform.machine() in {"x86_64", "aarch64"} else 0
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", _USUAL)
# Room for each tensor begins where any dtype and vector instruction may read.
_ALIGNMENT = 64


class WeightStore:
    """Where the tensors of a loaded checkpoint lie, in memory and on disk.

    float32 tensors and integers are views of the mapped file. bfloat16 and float16 ones are
    float32 tensors in memory that is reserved and untouched until `fill` converts them.
    """

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._starts: list[int] = []

    @property
    def filled(self) -> bool:
        """Whether every tensor has its values."""
        return not any(held.waiting for held in self._held)

    def add(self, held: _Held) -> None:
        """Takes a tensor in, whose memory overlaps no other's."""
        index = bisect.bisect(self._starts, held.start)
        self._starts.insert(index, held.start)
        self._held.insert(index, held)

    def locate(self, tensor: torch.Tensor) -> StoredTensor | None:
        """Where a tensor's bytes lie on disk; None where they are in memory only.

        A contiguous part of a tensor is found as well. The dtype on disk may differ from
        the tensor's own: bfloat16 or float16, where that is float32. What waits for its
        values and is not to be had from disk as it is, a transposed view, gets them.
        """
        held = self._holder(tensor)
        if held is None:
            return None
        # A view may have another dtype than what it is a view of.
        plain = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
        if held.stored is None or not plain or tensor.dtype is not held.tensor.dtype:
            held.fill()
            return None
        skipped = (tensor.data_ptr() - held.start) // tensor.element_size()
        offset = held.stored.offset + skipped * ITEM_BYTES[held.stored.dtype]
        return replace(held.stored, offset=offset, shape=tuple(tensor.shape))

    def is_waiting(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in memory that has not been filled yet."""
        held = self._holder(tensor)
        return held is not None and held.waiting

    def fill(self, tensors: Iterable[torch.Tensor] | None = None) -> None:
        """Converts what is not there yet; of all tensors, or of those given."""
        for held in self._held if tensors is None else self._holders(tensors):
            held.fill()

    @contextmanager
    def filled_for(self, tensors: Iterable[torch.Tensor]) -> Iterator[None]:
        """Within it, these tensors have their values; afterwards those that waited wait again."""
        waiting = [held for held in self._holders(tensors) if held.waiting]
        for held in waiting:
            held.fill()
        try:
            yield
        finally:
            for held in waiting:
                held.empty()

    def forget(self, tensors: Iterable[torch.Tensor]) -> None:
        """Notes that tensors are written to, so that the file no longer has their values."""
        for held in self._holders(tensors):
            held.fill()
            held.stored = None

    def keep(self, tensors: Iterable[torch.Tensor]) -> None:
        """Lets go of everything that none of these tensors is a part of."""
        kept = {held.start: held for held in self._holders(tensors)}
        self._starts = sorted(kept)
        self._held = [kept[start] for start in self._starts]

    def _holders(self, tensors: Iterable[torch.Tensor]) -> list[_Held]:
        found = (self._holder(tensor) for tensor in tensors)
        return list({held.start: held for held in found if held is not None}.values())

    def _holder(self, tensor: torch.Tensor) -> _Held | None:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
            return None
        if tensor.layout is not torch.strided or not tensor.numel():
            return None
        start = tensor.data_ptr()
        index = bisect.bisect(self._starts, start) - 1
        if index < 0 or start >= self._starts[index] + self._held[index].nbytes:
            return None
        return self._held[index]


@dataclass(slots=True, kw_only=True)
class _Held:
    """One tensor of a checkpoint.

    Attributes:
        tensor: As the model gets it.
        start: Its address, kept even should the model's tensor be given other data.
        stored: Its bytes on disk; None once it has been written to.
        origin: What its values are converted from, where they are.
        waiting: Whether that has yet to be done.
    """

    tensor: torch.Tensor
    start: int
    stored: StoredTensor | None
    origin: _Origin | None = None
    waiting: bool = False

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def fill(self) -> None:
        if self.waiting and self.origin is not None:
            with torch.no_grad():
                self.tensor.copy_(self.origin.tensor)
            self.origin.file.release()
            self.waiting = False

    def empty(self) -> None:
        if self.origin is not None:
            self.origin.room.release()
            self.waiting = True


@dataclass(slots=True, kw_only=True)
class _Origin:
    """A tensor in half precision, and the memory on both sides of its conversion.

    Attributes:
        tensor: Mapped from the file.
        file: Where it lies in the mapped file.
        room: Where its values in float32 go.
    """

    tensor: torch.Tensor
    file: _Span
    room: _Span


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of mapped memory."""

    memory: mmap.mmap
    offset: int
    nbytes: int

    def release(self) -> None:
        """Gives back the pages that belong to nothing else; what was written there is lost."""
        begin = -(-self.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (self.offset + self.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            self.memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def map_checkpoint(folder: Path, entry: str) -> tuple[dict[str, torch.Tensor], WeightStore] | None:
    """The state dict of a checkpoint of safetensors files; no data is read.

    float64 tensors are mapped as they are; those that lie at an odd address are read.

    Args:
        folder: Where the files lie.
        entry: The file, or the index of several.

    Returns:
        None where a tensor has a dtype that torch or ONNX lack, or the system maps no file of
        this size.

    Raises:
        ModelLoadError: A file is missing or damaged.
    """
    files = [folder.absolute() / name for name in checkpoint.weight_files(folder, entry)]
    places: list[tuple[str, StoredTensor]] = []
    for file in files:
        found = _places(file)
        if found is None:
            return None
        places += found
    try:
        memories = {file: _map_file(file) for file in files}
        room = _Room(stored for _, stored in places)
    except OSError:
        return None
    store = WeightStore()
    state = {}
    for name, stored in places:
        held = _hold(stored, memories[stored.file], room)
        state[name] = held.tensor
        # What was read is nowhere else, and what is empty has no bytes.
        if held.stored is not None and held.nbytes:
            store.add(held)
    return state, store


def _places(file: Path) -> list[tuple[str, StoredTensor]] | None:
    """Where each tensor of a file lies; None where the header makes no sense."""
    header = checkpoint.read_header(file)
    start = checkpoint.data_start(file)
    places = []
    for name, said in header.items():
        dtype = DTYPES.get(said["dtype"])
        begin, end = said["data_offsets"]
        if dtype is None:
            return None
        stored = StoredTensor(
            file=file,
            offset=start + begin,
            dtype=str(dtype).removeprefix("torch."),
            shape=tuple(said["shape"]),
        )
        if stored.nbytes != end - begin or begin < 0:
            return None
        places.append((name, stored))
    # Neither gaps nor overlaps.
    dense = start + sum(stored.nbytes for _, stored in places) == file.stat().st_size
    return places if dense else None


def _hold(stored: StoredTensor, memory: mmap.mmap, room: _Room) -> _Held:
    dtype: torch.dtype = getattr(torch, stored.dtype)
    converted = dtype in HALVES
    if not stored.nbytes:
        empty = torch.empty(stored.shape, dtype=torch.float32 if converted else dtype)
        return _Held(tensor=empty, start=0, stored=None)
    if stored.offset % dtype.itemsize:
        copied = bytearray(memory[stored.offset : stored.offset + stored.nbytes])
        read = torch.frombuffer(copied, dtype=dtype).reshape(stored.shape)
        return _Held(tensor=read.float() if converted else read, start=0, stored=None)
    count = math.prod(stored.shape)
    mapped = torch.frombuffer(memory, dtype=dtype, count=count, offset=stored.offset)
    mapped = mapped.reshape(stored.shape)
    if not converted:
        return _Held(tensor=mapped, start=mapped.data_ptr(), stored=stored)
    tensor, span = room.take(count)
    tensor = tensor.reshape(stored.shape)
    file = _Span(memory, stored.offset, stored.nbytes)
    origin = _Origin(tensor=mapped, file=file, room=span)
    return _Held(tensor=tensor, start=tensor.data_ptr(), stored=stored, origin=origin, waiting=True)


class _Room:
    """Reserved memory for all tensors that need converting; untouched, it takes none."""

    def __init__(self, places: Iterable[StoredTensor]) -> None:
        halves = [str(dtype).removeprefix("torch.") for dtype in HALVES]
        size = sum(_room_for(math.prod(item.shape)) for item in places if item.dtype in halves)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._memory = mmap.mmap(-1, size, flags=flags) if size else None
        self._next = 0

    def take(self, count: int) -> tuple[torch.Tensor, _Span]:
        """The next tensor of so many float32 numbers."""
        if self._memory is None:
            raise ValueError("nothing was reserved")
        begin = self._next
        self._next += _room_for(count)
        tensor = torch.frombuffer(self._memory, dtype=torch.float32, count=count, offset=begin)
        return tensor, _Span(self._memory, begin, tensor.nbytes)


def _room_for(count: int) -> int:
    return -(-count * torch.float32.itemsize // _ALIGNMENT) * _ALIGNMENT


def _map_file(file: Path) -> mmap.mmap:
    # Private, so that a write stays in this process, and writable, as torch wants it.
    with file.open("rb") as stream:
        return mmap.mmap(
            stream.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
