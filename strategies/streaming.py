"""The bytes of a weight, piece by piece, so that no second copy of it is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch

Bytes = bytes | memoryview

CHUNK_BYTES = 1 << 24


def in_torch(tensor: ir.TensorProtocol | None) -> torch.Tensor | None:
    """The PyTorch tensor that an initializer is made from; None where it is made otherwise.

    onnx-ir and torch's own exporter each have a class for these.
    """
    raw = tensor.raw if isinstance(tensor, ir.Tensor) else None
    return raw if isinstance(raw, torch.Tensor) else None


def chunks(tensor: ir.TensorProtocol) -> Iterator[Bytes]:
    """All bytes of a tensor as ONNX wants them: little endian, row by row."""
    raw = in_torch(tensor)
    if isinstance(tensor, ir.ExternalTensor):
        yield from _of_file(Path(tensor.path), tensor.offset or 0, tensor.nbytes)
    elif raw is not None and raw.nbytes == tensor.nbytes and not raw.is_complex():
        yield from _of_memory(raw.detach().resolve_neg())
    else:
        yield tensor.tobytes()


def _of_file(path: Path, offset: int, count: int) -> Iterator[Bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while count:
            chunk = file.read(min(count, CHUNK_BYTES))
            if not chunk:
                raise OSError(f"{path} became shorter while it was read")
            count -= len(chunk)
            yield chunk


def _of_memory(tensor: torch.Tensor) -> Iterator[Bytes]:
    if not tensor.numel():
        return
    blocks: tuple[torch.Tensor, ...] = (tensor,)
    if not tensor.is_contiguous():
        # Only a part at a time is brought into order.
        rows = max(1, CHUNK_BYTES * len(tensor) // tensor.nbytes)
        blocks = tensor.split(rows)  # type: ignore[no-untyped-call]  # torch has no types here
    for block in blocks:
        flat = block.cpu().contiguous().reshape(-1).view(torch.uint8)
        yield flat.numpy().data
