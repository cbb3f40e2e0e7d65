"""Running and tracing a module without its weights: shapes, what is refused, and the files."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.jit._trace
from torch import Tensor, nn

from scripts.zoo import tiny_model
from strategies import internals, torchscript
from strategies.base import VOID, Candidate
from strategies.calling import flatten_outputs
from strategies.errors import CaptureError, StrategyUnavailableError, VoidReadError
from strategies.hierarchy import ATTRIBUTION, CALL, MODULE
from strategies.usage_based import UsageBasedStrategy
from strategies.void import is_void, refuse_constant, void_operators, void_parameters, weightless
from tests.exporting import largest_error, request_for

DYNAMIC = Candidate(strategy="usage_based", weights=VOID)
REAL = Candidate(strategy="usage_based")


def inputs_of(name: str, batch: int) -> dict[str, Tensor]:
    if name in {"resnet", "vit"}:
        size = 32 if name == "vit" else 64
        return {"pixel_values": torch.randn(batch, 3, size, size)}
    return {"input_ids": torch.randint(5, 50, (batch, 7))}


def made(name: str) -> Any:
    return tiny_model(name).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["bert", "resnet", "mixtral", "gpt2"])
def test_outputs_have_eager_shapes_and_dtypes_and_are_void(name: str) -> None:
    model, inputs = made(name), inputs_of(name, 2)
    options = {"use_cache": False} if name in {"gpt2", "mixtral"} else {}
    with torch.no_grad():
        expected = flatten_outputs(model(**inputs, **options))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with weightless(model):
        found = flatten_outputs(model(**inputs, **options))
    assert [(key, item.shape, item.dtype) for key, item in found] == [
        (key, item.shape, item.dtype) for key, item in expected
    ]
    assert all(is_void(item) for _, item in found)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_layer_that_no_memory_could_hold_runs() -> None:
    layer = nn.Linear(8, 8).eval()
    with torch.device("meta"):
        huge = nn.Linear(1 << 18, 1 << 18)  # 256 GiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with void_parameters(layer):
        layer.weight.data = layer.weight.data.as_strided(huge.weight.shape, huge.weight.stride())
        layer.bias.data = layer.bias.data.as_strided(huge.bias.shape, (1,))
        with void_operators():
            assert layer(torch.ones(2, 1 << 18)).shape == (2, 1 << 18)
    assert layer.weight.shape == (8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


class Layer(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.call = call

    def forward(self, x: Tensor) -> object:
        return self.call(self.weight, x)


def _foreach(weight: Tensor, x: Tensor) -> Tensor:
    torch._foreach_add_([x], [weight])
    return x


@torch.inference_mode()
def _inferred(weight: Tensor, x: Tensor) -> Tensor:
    return x if weight.t().contiguous().abs().max() > 0 else -x


READING: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda w, _: w[0, 0].item(),
    "branch": lambda w, x: x if w.sum() > 1 else -x,
    "list": lambda w, _: w.tolist(),
    "array": lambda w, _: w.numpy(),
    "equal": torch.equal,
    "its own mask": lambda w, _: w[w > 2],
    "nonzero": lambda w, _: w.nonzero(),
    "unique": lambda w, _: torch.unique(w),
    "what was written": lambda w, x: x.clone().copy_(w)[0, 0].item(),
    "a list of what was written": lambda w, x: x.clone().copy_(w).tolist(),
    "what a list was written into": lambda w, x: _foreach(w, x.clone()).tolist(),
    "a tensor of scalars": lambda w, _: torch.tensor([w[0, 0], 1.0]),
    "a nested tensor of scalars": lambda w, _: torch.as_tensor([[w[0, 0]], [w[0, 1]]]),
    "a new tensor of scalars": lambda w, x: x.new_tensor([w[0, 0]]),
    "a float": lambda w, _: float(w[0, 0]),
    "inference mode": _inferred,
    "writing into it": lambda w, x: w.clamp_(0) + x,
    "writing behind the tracer's back": lambda w, x: w.data.mul_(2) + x,
    "renormalising": lambda w, _: nn.functional.embedding(torch.tensor([1]), w, max_norm=0.5),
}


@pytest.mark.parametrize("kind", READING)
def test_reading_a_value_out_of_a_weight_is_refused(kind: str) -> None:
    with weightless(model := Layer(READING[kind])), pytest.raises(VoidReadError, match="weights"):
        model(torch.ones(2, 3))


def replace_weight(layer: nn.Linear) -> None:
    with weightless(layer):
        layer.weight.data = layer.weight.data * 2
        layer(torch.ones(1, 2))


def test_other_data_for_a_weight_is_refused() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(VoidReadError, match="replaces"):
        replace_weight(layer)
    assert torch.equal(layer.weight, before)


def test_a_sparse_weight_is_unavailable() -> None:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(StrategyUnavailableError, match="sparse"), weightless(layer):
        pass


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
def test_recurrent_layers_run(kind: Callable[..., nn.Module]) -> None:
    layer = kind(3, 4, batch_first=True).eval()
    with weightless(layer):
        outputs, _ = layer(torch.ones(2, 5, 3))
    assert outputs.shape == (2, 5, 4)


def test_the_error_says_where() -> None:
    with weightless(model := Layer(READING["item"])), pytest.raises(VoidReadError) as caught:
        model(torch.ones(2, 3))
    assert Path(__file__).name in str(caught.value)


def _sliced(weight: Tensor, x: Tensor) -> Tensor:
    target = torch.zeros(4, 3)
    target[:2] = weight
    return target * x.sum()


KNOWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a mask of the input": lambda w, x: w[x > 2],
    "writing under a mask": lambda w, x: w.index_put((x > 2,), torch.zeros(())),
    "a branch on the input": lambda w, x: w * 2 if x.sum() > 1 else w[0],
    "where": lambda w, x: torch.where(x > 2, w, x),
    "writing into a real tensor": lambda w, x: x.clone().copy_(w) + 1,
    "a slice of a real tensor": _sliced,
    "attention": lambda w, x: nn.functional.scaled_dot_product_attention(
        w[None, None], x[None, None], x[None, None]
    ),
    "chunks": lambda w, _: torch.cat(w.chunk(3, dim=1)[::-1], dim=0),
    "in place": lambda w, x: (w + x).mul_(2).relu_(),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_what_needs_no_value_has_the_right_shape(kind: str) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    expected: Any = Layer(KNOWN[kind])(x)
    with weightless(model := Layer(KNOWN[kind])):
        found: Any = model(x)
    assert (found.shape, found.stride(), found.dtype) == (
        expected.shape,
        expected.stride(),
        expected.dtype,
    )


def test_what_depends_on_no_value_is_real() -> None:
    with weightless(model := Layer(lambda w, x: torch.ones_like(w) + x)):
        found: Any = model(torch.full((2, 3), 2.0))
    assert torch.equal(found, torch.full((2, 3), 3.0))


@pytest.fixture(scope="module", params=["bert", "resnet", "vit", "mixtral"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, Path, Path]:
    """A model's files: traced with void weights, and with real ones."""
    model, inputs = made(request.param), inputs_of(request.param, 2)
    axes = {name: {0: "batch_size"} for name in inputs}
    options = {"use_cache": False} if request.param == "mixtral" else {}
    paths = []
    for candidate in (DYNAMIC, REAL):
        asked = request_for(
            model, inputs, candidate, tmp_path_factory.mktemp("out"), axes=axes, constants=options
        )
        paths.append(UsageBasedStrategy()(asked).path)
    return request.param, model, paths[0], paths[1]


def test_numbers_with_the_real_weights_at_another_batch(
    exported: tuple[str, nn.Module, Path, Path],
) -> None:
    name, model, path, _ = exported
    config: Any = model.config
    config.use_cache = False
    assert largest_error(path, model, inputs_of(name, 3)) < 1e-5


def test_the_graph_and_its_tags_are_those_of_an_ordinary_trace(
    exported: tuple[str, nn.Module, Path, Path],
) -> None:
    _, _, void, real = exported

    def described(path: Path) -> list[tuple[Any, ...]]:
        rows = []
        for node in onnx.load(path, load_external_data=False).graph.node:
            tags = {entry.key: entry.value for entry in node.metadata_props}
            rows.append((node.name, node.op_type, tags[MODULE], tags[CALL], tags[ATTRIBUTION]))
        return rows

    assert described(void) == described(real)


def test_a_weight_that_decides_the_path_fails_at_once(tmp_path: Path) -> None:
    model = Layer(READING["branch"]).requires_grad_(False)
    request = request_for(model, {"x": torch.ones(2, 3)}, DYNAMIC, tmp_path)
    with pytest.raises(VoidReadError) as caught:
        UsageBasedStrategy()(request)
    assert isinstance(caught.value, CaptureError)
    assert caught.value.strategy == "usage_based"
    assert not list(tmp_path.iterdir())


# What of torch's inside this rests on; when one of these fails, torch has changed, and
# strategies/torchscript.py is the place to follow it.


@pytest.mark.parametrize("part", internals.WEIGHTLESS)
def test_without_a_private_part_void_candidates_are_unavailable(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = nn.Linear(2, 2).eval().requires_grad_(False)
    request = request_for(model, {"input": torch.ones(3, 2)}, DYNAMIC, tmp_path)
    name = part.replace(":", ".")
    monkeypatch.delattr(name)
    with pytest.raises(StrategyUnavailableError, match=re.escape(name)):
        UsageBasedStrategy()(request)


def test_a_pause_hides_the_trace_and_a_resumption_brings_it_back() -> None:
    seen = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torchscript.paused():
                seen.append((torchscript.is_tracing(), type(x.shape[0])))
                x.neg()
            seen.append((torchscript.is_tracing(), type(x.shape[0])))
            return x.exp()

    graph, _ = torch.jit._trace._get_trace_graph(  # type: ignore[no-untyped-call]  # torch's own
        Watching(), (torch.ones(2),)
    )
    assert seen == [(False, int), (True, Tensor)]
    assert "aten::neg" not in str(graph)
    assert "aten::exp" in str(graph)


def test_a_void_constant_in_a_trace_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with void_parameters(layer), pytest.raises(VoidReadError, match="constant"):
        refuse_constant(layer.weight)
    refuse_constant(layer.weight)


def test_convolutions_are_recorded_below_the_mode(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.ConvTranspose1d(3, 2, 3, stride=2, output_padding=1)
    )
    model.eval().requires_grad_(False)
    request = request_for(
        model, {"input": torch.randn(2, 2, 9)}, DYNAMIC, tmp_path, axes={"input": {0: "batch"}}
    )
    path = UsageBasedStrategy()(request).path
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds == ["Conv", "ConvTranspose"]
    assert largest_error(path, model, {"input": torch.randn(3, 2, 9)}) < 1e-5
