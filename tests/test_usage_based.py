"""The TorchScript strategy: numbers, control flow, weights, and the private hook it needs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.jit._trace
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import masking_utils

from scripts.plain_control import Branch
from scripts.zoo import tiny_model
from strategies import internals
from strategies.base import REAL, VOID, Candidate, ExportRequest
from strategies.errors import (
    CaptureError,
    InvalidRequestError,
    LoweringError,
    StrategyUnavailableError,
)
from strategies.usage_based import UsageBasedStrategy
from tests.exporting import largest_error, request_for

BertFile = tuple[Path, nn.Module]
DYNAMIC = Candidate(strategy="usage_based")
BERT_AXES = {0: "batch_size", 1: "sequence_length"}


def bert_inputs(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": torch.randint(5, 50, (batch, length)), "attention_mask": mask}


@pytest.fixture(scope="module")
def bert_file(tmp_path_factory: pytest.TempPathFactory) -> BertFile:
    model = tiny_model("bert")
    inputs = bert_inputs(2, 7)
    request = request_for(
        model,
        inputs,
        DYNAMIC,
        tmp_path_factory.mktemp("bert"),
        axes=dict.fromkeys(inputs, BERT_AXES),
        output_axes={"last_hidden_state": BERT_AXES, "pooler_output": {0: "batch_size"}},
        metadata={"autoexport.source": "test"},
    )
    return UsageBasedStrategy()(request).path, model


@pytest.mark.parametrize(("batch", "length"), [(2, 7), (3, 11), (5, 4)])
def test_numbers_at_other_sizes(bert_file: BertFile, batch: int, length: int) -> None:
    path, model = bert_file
    assert largest_error(path, model, bert_inputs(batch, length)) < 1e-5


def test_shapes_and_metadata_of_the_file(bert_file: BertFile) -> None:
    model = onnx.load(bert_file[0])
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    bert: Any = bert_file[1]
    hidden = bert.config.hidden_size
    assert shapes == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "sequence_length"],
        "last_hidden_state": ["batch_size", "sequence_length", hidden],
        "pooler_output": ["batch_size", hidden],
    }
    assert {entry.key: entry.value for entry in model.metadata_props}["autoexport.source"] == "test"
    assert model.opset_import[0].version == 18


def branch_request(
    tmp_path: Path, *, scripted: bool
) -> tuple[nn.Module, dict[str, Tensor], ExportRequest]:
    model = Branch().eval().requires_grad_(False)
    example = {next(iter(Branch.forward.__annotations__)): torch.ones(2, 6)}
    candidate = Candidate(strategy="usage_based", dynamic=False, scripted=scripted)
    return model, example, request_for(model, example, candidate, tmp_path)


def test_a_scripted_branch_is_kept(tmp_path: Path) -> None:
    model, example, request = branch_request(tmp_path, scripted=True)
    path = UsageBasedStrategy()(request).path
    assert "If" in {node.op_type for node in onnx.load(path).graph.node}
    for sign in (1.0, -1.0):
        inputs = {name: tensor * sign for name, tensor in example.items()}
        assert largest_error(path, model, inputs) < 1e-5


def test_a_traced_branch_is_frozen_which_is_why_files_are_verified(tmp_path: Path) -> None:
    model, example, request = branch_request(tmp_path, scripted=False)
    path = UsageBasedStrategy()(request).path
    other = {name: -tensor for name, tensor in example.items()}
    assert largest_error(path, model, example) < 1e-5
    assert largest_error(path, model, other) > 1e-3


class Unlowerable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.special.airy_ai(x)
        return values


def test_an_operator_without_a_symbolic_is_named(tmp_path: Path) -> None:
    request = request_for(Unlowerable(), {"x": torch.eye(3)}, DYNAMIC, tmp_path)
    with pytest.raises(LoweringError, match="airy_ai") as caught:
        UsageBasedStrategy()(request)
    assert caught.value.strategy == "usage_based"
    assert not list(tmp_path.iterdir())


class Unscriptable(nn.Module):
    def forward(self, x: Tensor, **extra: Tensor) -> Tensor:
        return x + sum(extra.values()) if x.sum() > 0 else x


def test_what_cannot_be_scripted_is_a_capture_error(tmp_path: Path) -> None:
    candidate = Candidate(strategy="usage_based", scripted=True)
    request = request_for(Unscriptable(), {"x": torch.ones(3)}, candidate, tmp_path)
    with pytest.raises(CaptureError, match="cannot be scripted"):
        UsageBasedStrategy()(request)


def test_higher_opset(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval().requires_grad_(False)
    request = request_for(model, {"input": torch.randn(2, 4)}, DYNAMIC, tmp_path, opset=20)
    path = UsageBasedStrategy()(request).path
    assert onnx.load(path).opset_import[0].version == 20


class TakesNamesOfItsOwn(nn.Module):
    """A parameter and an output bear the same name, and an output is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": x + self.output, "same": x, "constant": self.output, "x": x * 2}


def test_names_do_not_collide(tmp_path: Path) -> None:
    model = TakesNamesOfItsOwn().requires_grad_(False)
    path = UsageBasedStrategy()(
        request_for(model, {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path)
    ).path
    onnx.checker.check_model(path)
    assert [value.name for value in onnx.load(path).graph.output] == [
        "output",
        "same",
        "constant",
        "x_output",
    ]
    assert largest_error(path, model, {"x": torch.randn(2, 3)}) < 1e-6


class IgnoresAnInput(nn.Module):
    """Has a buffer and an input that nothing uses, and returns sizes beside a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, ids: Tensor, ignored: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.table(ids) + self.shift, (ids.shape[0], ids.shape[1])


def test_inputs_that_nothing_uses_and_sizes_in_outputs(tmp_path: Path) -> None:
    model = IgnoresAnInput().requires_grad_(False)
    inputs = {"ids": torch.tensor([[1, 2, 8]]), "ignored": torch.zeros(2)}
    path = UsageBasedStrategy()(request_for(model, inputs, DYNAMIC, tmp_path)).path
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["ids", "ignored"]
    assert [value.name for value in graph.output] == ["output_0"]
    assert largest_error(path, model, inputs) < 1e-6


class Halved(torch.autograd.Function):
    """As written today: what its gradient needs is set up apart."""

    @staticmethod
    def forward(x: Tensor, layer: nn.Module) -> Tensor:
        half: Tensor = layer(x) / 2
        return half

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)


class Doubled(torch.autograd.Function):
    """As written before: its forward gets the context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.mark_non_differentiable(x)
        ctx.gradient = ctx.needs_input_grad[0]
        return x * 2


class CustomGradients(nn.Module):
    """Calls a module within a custom function, and another function on what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Doubled.apply(  # type: ignore[no-untyped-call]  # torch has no types here
            Halved.apply(x, self.layer)  # type: ignore[no-untyped-call]  # as above
        )
        return result


def test_custom_gradients_are_no_matter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CustomGradients().eval().requires_grad_(False)
    apply = torch.autograd.Function.__dict__["apply"]
    request = request_for(model, {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path)
    path = UsageBasedStrategy()(request).path
    assert largest_error(path, model, {"x": torch.randn(2, 3)}) < 1e-6
    assert torch.autograd.Function.__dict__["apply"] is apply


class Limited(nn.Module):
    """Takes at most four elements, and as many rows as there are in both axes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.topk(min(4, x.shape[-1])).values
        rows = x.new_ones(max(x.shape)) * max(2.0, 1.0)
        has_methods_of_numbers = x.shape[0].bit_length() > round(x.shape[0] / 9, 2)
        return values, rows if has_methods_of_numbers else values


def test_the_lesser_of_sizes_is_found_out_at_every_run(tmp_path: Path) -> None:
    model = Limited()
    axes = {"x": {0: "rows", 1: "columns"}}
    request = request_for(model, {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path, axes=axes)
    path = UsageBasedStrategy()(request).path
    for shape in ((2, 3), (2, 9), (5, 4)):
        assert largest_error(path, model, {"x": torch.randn(shape)}) < 1e-6
    assert "min" not in globals()


class Attending(nn.Module):
    """Torch's own attention: to itself, from its first element, and to other values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.without_bias = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(x)
        return (
            x,
            self.attention(x[:, :1], x, x)[0],
            self.attention(x, x, x * 2)[0],
            self.without_bias(x, x, x)[0],
        )


@pytest.mark.parametrize("weights", [REAL, VOID])
def test_attention_of_torch_at_other_lengths(weights: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attending().eval()
    axes = {"x": {0: "batch_size", 1: "length"}}
    candidate = Candidate(strategy="usage_based", weights=weights)
    request = request_for(model, {"x": torch.randn(3, 6, 8)}, candidate, tmp_path, axes=axes)
    path = UsageBasedStrategy()(request).path
    for shape in ((3, 6, 8), (4, 12, 8), (1, 1, 8)):
        assert largest_error(path, model, {"x": torch.randn(shape)}) < 1e-5


class Counted(nn.Module):
    """Asks how many elements a mask chooses, by Python's own function."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x > 0).nonzero(as_tuple=True)
        signs = x[chosen].sign().view(len(chosen[0]), -1)
        return x.flatten() * signs.sum() + len(x) * len(x.shape)


def test_a_tensor_is_counted_at_every_run(tmp_path: Path) -> None:
    model = Counted()
    torch.manual_seed(0)
    axes = {"x": {0: "rows", 1: "columns"}}
    request = request_for(model, {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path, axes=axes)
    path = UsageBasedStrategy()(request).path
    for shape in ((2, 3), (5, 4), (1, 9)):
        assert largest_error(path, model, {"x": torch.randn(shape)}) < 1e-6


class Grouped(nn.Module):
    """Its mask is made by a function of single positions, as transformers maps it over all."""

    def forward(self, groups: Tensor) -> Tensor:
        batch, length = groups.shape

        def same_group(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return groups[row, query] == groups[row, key]

        mask = masking_utils.sdpa_mask(
            batch_size=batch,
            q_length=length,
            kv_length=length,
            mask_function=same_group,
            allow_is_causal_skip=False,
            use_vmap=True,
        )
        assert mask is not None
        return mask.float()


def test_a_mask_by_vmap_at_other_sizes(tmp_path: Path) -> None:
    model = Grouped()
    axes = {"groups": {0: "batch_size", 1: "length"}}
    torch.manual_seed(0)
    example = {"groups": torch.randint(3, (2, 5))}
    path = UsageBasedStrategy()(request_for(model, example, DYNAMIC, tmp_path, axes=axes)).path
    for shape in ((2, 5), (3, 8)):
        assert largest_error(path, model, {"groups": torch.randint(3, shape)}) < 1e-6


def test_a_place_that_cannot_be_written_is_no_failure_of_the_strategy(tmp_path: Path) -> None:
    model = nn.ReLU()
    request = request_for(model, {"input": torch.ones(2)}, DYNAMIC, tmp_path / "gone")
    with pytest.raises(InvalidRequestError, match="cannot write the file: No such file"):
        UsageBasedStrategy()(request)


class Windowed(nn.Module):
    """Limits its window to the length, as windowed attention does in its last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Any = 4
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] <= self.window:
            self.window = torch.min(torch.tensor([x.shape[1]]))
        return x.reshape(x.shape[0], -1, self.window) + self.bias


def test_number_that_forward_writes_back_stays_a_number(tmp_path: Path) -> None:
    model = Windowed()
    inputs = {"x": torch.randn(2, 4)}
    request = request_for(model, inputs, DYNAMIC, tmp_path, axes={"x": {1: "length"}})
    # The request's forward wrote a tensor, as it would outside of a trace.
    model.window = 4
    path = UsageBasedStrategy()(request).path
    assert largest_error(path, model, {"x": torch.randn(2, 12)}) < 1e-6


# What of torch's inside this strategy rests on; when one of these fails, torch has changed,
# and strategies/torchscript.py is the place to follow it.


@pytest.mark.parametrize("part", internals.TRACING + internals.WEIGHTLESS)
def test_torch_still_has(part: str) -> None:
    internals.find(part)  # raises where it is gone; some are None until they are used


def test_torch_still_looks_a_module_up_once_per_call() -> None:
    looked_up = []

    class Spy(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            looked_up.append(key)
            return default

    layer = nn.ReLU()
    model = nn.Sequential(layer, layer)
    torch.jit._trace._trace_module_map = Spy()
    try:
        torch.jit._trace._get_trace_graph(  # type: ignore[no-untyped-call]  # torch has no types here
            model, (torch.ones(2),)
        )
    finally:
        torch.jit._trace._trace_module_map = None
    assert looked_up.count(layer) == 2


@pytest.mark.parametrize("part", internals.TRACING)
def test_without_a_private_part_the_strategy_is_unavailable(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = request_for(nn.ReLU(), {"input": torch.ones(2)}, DYNAMIC, tmp_path)
    module, _, path = part.partition(":")
    # By the module itself: a package may name a function like it.
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    monkeypatch.delattr(owner, name)
    with pytest.raises(StrategyUnavailableError, match=re.escape(part.replace(":", "."))):
        UsageBasedStrategy()(request)


class Hyper(nn.Module):
    """A layer whose weights another one computes, and a cached parametrization of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.made = nn.Linear(4, 12)
        self.orthogonal = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        weights = {"weight": self.made(x.mean(0)).reshape(3, 4), "bias": x[0, :3]}
        hidden = torch.func.functional_call(self.inner, weights, (x,))
        with parametrize.cached():
            result: Tensor = self.orthogonal(hidden) + self.orthogonal(hidden.relu())
        return result


def test_modules_are_called_with_other_weights(tmp_path: Path) -> None:
    model = Hyper().eval()
    axes = {"x": {0: "rows"}}
    candidate = Candidate(strategy="usage_based", weights=VOID)
    request = request_for(model, {"x": torch.randn(2, 4)}, candidate, tmp_path, axes=axes)
    path = UsageBasedStrategy()(request).path
    assert largest_error(path, model, {"x": torch.randn(5, 4)}) < 1e-5
