"""The contract between the chain and a strategy: a request in, a tagged ONNX file out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from strategies.errors import CaptureError, StrategyError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import nn

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A strategy with its options: what is ranked, measured and recorded.

    Attributes:
        strategy: Name in the registry.
        dynamic: Whether the axes that may vary stay dynamic in the file.
        scripted: Whether branches and loops on tensor values are kept in the file as
            ONNX If and Loop, instead of following the path the example inputs took.
    """

    strategy: str
    dynamic: bool = True
    scripted: bool = False

    def __str__(self) -> str:
        options = ["dynamic" if self.dynamic else "static"]
        if self.scripted:
            options.append("scripted")
        return f"{self.strategy}[{','.join(options)}]"


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
        directory: Existing folder to write `model.onnx` (and `model.onnx.data`) into.
        opset: Version of the default ONNX operator set.
        external_data: Whether weights go beside the file; None decides by their size.
        metadata: Entries for the model's own `metadata_props`.
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
    external_data: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


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
    """

    path: Path
    candidate: Candidate
    nodes: int
    traced_share: float
    file_bytes: int
    seconds: Mapping[str, float]


class ExportStrategy(ABC):
    """One way to capture and lower a model; `_export` is all that a strategy writes.

    Attributes:
        name: As in the registry.
    """

    name: ClassVar[str]

    def __call__(self, request: ExportRequest) -> ExportArtifact:
        """Captures, lowers, tags, and writes `model.onnx` into the request's folder.

        Raises:
            StrategyError: With strategy and stage filled in; anything else is a bug.
        """
        from strategies import finishing  # noqa: PLC0415 - imports onnx, which --help must not

        clock = time.perf_counter()
        model = request.load_model()
        loaded = time.perf_counter()
        try:
            graph = self._captured(model, request)
            captured = time.perf_counter()
            finishing.finish(graph, model, request)
            finished = time.perf_counter()
            path = finishing.save(graph, request)
        except StrategyError as error:
            raise error.located(self.name) from error.__cause__
        except OSError as error:
            reason = f"cannot write into {request.directory}: {error.strerror}"
            raise StrategyError(reason, strategy=self.name, stage="save") from error
        return ExportArtifact(
            path=path,
            candidate=request.candidate,
            nodes=finishing.count_nodes(graph),
            traced_share=finishing.traced_share(graph),
            file_bytes=sum(
                item.stat().st_size for item in request.directory.glob(f"{MODEL_FILE}*")
            ),
            seconds={
                "load": loaded - clock,
                "capture": captured - loaded,
                "finish": finished - captured,
                "save": time.perf_counter() - finished,
            },
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


def first_line(error: BaseException, limit: int = 300) -> str:
    """The error's type and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
