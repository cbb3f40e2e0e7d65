"""The contract between the chain and a strategy: a request in, a tagged ONNX file out."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from strategies.errors import CaptureError, InvalidRequestError, StrategyError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn

    from strategies.stored import StoredTensor

MODEL_FILE = "model.onnx"
# Of the files beside it that hold weights: those written here, and a checkpoint's own.
DATA_ENDINGS = (".onnx.data", ".safetensors")
# What a capture runs on.
REAL, VOID = "real", "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A strategy with its options: what is ranked, measured and recorded.

    Attributes:
        strategy: Name in the registry.
        dynamic: Whether the axes that may vary stay dynamic in the file.
        scripted: Whether branches and loops on tensor values are kept in the file as
            ONNX If and Loop, instead of following the path the example inputs took.
        weights: What the capture runs on: `real` weights, or `void` ones, which have
            shapes and no values, so that nothing is read or computed with them.
    """

    strategy: str
    dynamic: bool = True
    scripted: bool = False
    weights: str = REAL

    def __str__(self) -> str:
        options = ["dynamic" if self.dynamic else "static"]
        if self.scripted:
            options.append("scripted")
        if self.weights != REAL:
            options.append(self.weights)
        return f"{self.strategy}[{','.join(options)}]"

    def with_weights(self) -> Candidate:
        """Its twin that is captured with real weights, or itself."""
        return replace(self, weights=REAL)


def _nowhere(_: torch.Tensor) -> StoredTensor | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Everything that an attempt needs to know.

    Attributes:
        candidate: What to try.
        load_model: Returns the module, in eval mode and without gradients. Weights
            need not be in memory before it is called.
        inputs: Example tensors under forward's parameter names, in forward's order.
        dynamic_axes: For each input its axes that may vary, index to name. Empty for a
            static candidate.
        constants: Python values to bind to further parameters of forward.
        output_names: Names of the flattened outputs (`calling.flatten_outputs`).
        output_axes: For each output its axes that vary with the inputs, index to name.
        directory: Existing folder to write `model.onnx` and the files with its weights into.
        opset: Version of the default ONNX operator set.
        weights: Where the file's weights go: `link` and `copy` put a checkpoint's own bytes
            beside it, `embed` puts all bytes into it.
        data_stem: What the names of these files begin with.
        locate: Where on disk a tensor's bytes lie already; None where they are in memory only.
        metadata: Entries for the model's own `metadata_props`.
        past_branches: Whether the example was chosen so that forward takes branches which it
            leaves out at lesser sizes.
        beyond: Inputs of other sizes at which forward takes another branch; the file then
            takes either. None for all strategies that do not say that they join captures.
    """

    candidate: Candidate
    load_model: Callable[[], nn.Module]
    inputs: Mapping[str, torch.Tensor]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    constants: Mapping[str, object]
    output_names: tuple[str, ...]
    output_axes: Mapping[str, Mapping[int, str]]
    directory: Path
    opset: int = 18
    weights: str = "copy"
    data_stem: str = "model"
    locate: Callable[[torch.Tensor], StoredTensor | None] = _nowhere
    metadata: Mapping[str, str] = field(default_factory=dict)
    past_branches: bool = False
    beyond: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportArtifact:
    """What a strategy wrote.

    Attributes:
        path: The ONNX file; its external data, if any, lies beside it.
        candidate: What made it.
        nodes: Number of nodes, those in subgraphs included.
        traced_share: Share of nodes whose module the capture itself named, 0 to 1.
        file_bytes: Bytes of the file and its external data together.
        seconds: Wall seconds of each stage: load, capture, finish, save.
        notes: What the user should know of how it was written, one sentence each.
    """

    path: Path
    candidate: Candidate
    nodes: int
    traced_share: float
    file_bytes: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


class ExportStrategy(ABC):
    """One way to capture and lower a model; `_export` is all that a strategy writes.

    Attributes:
        name: As in the registry.
        joins: Whether it joins captures of two examples, see `ExportRequest.beyond`.
    """

    name: ClassVar[str]
    joins: ClassVar[bool] = False

    def __call__(self, request: ExportRequest) -> ExportArtifact:
        """Captures, lowers, tags, and writes `model.onnx` into the request's folder.

        Raises:
            StrategyError: With strategy and stage filled in.
            InvalidRequestError: The place for the file cannot be written, or holds no more.
        """
        from strategies import finishing, saving  # noqa: PLC0415 - import onnx; --help must not

        clock = time.perf_counter()
        model = request.load_model()
        loaded = time.perf_counter()
        try:
            with _without_collections():
                graph = self._captured(model, request)
                captured = time.perf_counter()
                finishing.finish(graph, model, request)
                finished = time.perf_counter()
                saved = saving.save(graph, request)
        except StrategyError as error:
            raise error.located(self.name) from error.__cause__
        except OSError as error:
            # No other strategy's file would fit either.
            msg = f"cannot write the file: {error.strerror}; choose another place for it"
            raise InvalidRequestError(msg) from error
        return ExportArtifact(
            path=saved.path,
            candidate=request.candidate,
            nodes=finishing.count_nodes(graph),
            traced_share=finishing.traced_share(graph),
            file_bytes=saved.file_bytes,
            seconds={
                "load": loaded - clock,
                "capture": captured - loaded,
                "finish": finished - captured,
                "save": time.perf_counter() - finished,
            },
            notes=saved.notes,
        )

    def _captured(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        """Runs `_export`; whatever an exporter raises there is a failed capture."""
        try:
            return self._export(model, request)
        except (StrategyError, MemoryError):
            raise
        except Exception as error:
            raise CaptureError(first_line(error)) from error

    def warm_up(self) -> None:  # noqa: B027 - a strategy may have nothing to build
        """Builds what every attempt needs, in the process that attempts are forked from."""

    @abstractmethod
    def _export(self, model: nn.Module, request: ExportRequest) -> ir.Model:
        """Returns the model in ONNX IR, its weights as initializers named after their parameters.

        Inputs and outputs stand in the request's order; every node whose module the
        capture knows is marked with `hierarchy.mark`. Naming, shapes of inputs and
        outputs, tags of the other nodes, and saving are done by the caller.

        Raises:
            CaptureError, LoweringError, StrategyUnavailableError: with `__cause__`.
        """


@contextmanager
def _without_collections() -> Iterator[None]:
    """Within it no garbage is looked for: graphs are large, and nearly all of them is kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def first_line(error: BaseException, limit: int = 300) -> str:
    """The error's type and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
