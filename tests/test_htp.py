"""The recorded capture: numbers at other sizes, module calls, mutation, and torch's internals."""

from __future__ import annotations

import operator
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from scripts.plain_control import Branch
from scripts.plain_networks import Shared
from scripts.plain_recurrent import Loop, Lstm
from scripts.zoo import tiny_model
from strategies import internals, recording, torchlib
from strategies.base import Candidate, ExportArtifact
from strategies.errors import CaptureError, LoweringError, StrategyUnavailableError
from strategies.hierarchy import ModuleScope, scope_of
from strategies.htp import HtpStrategy
from tests.exporting import largest_error, request_for
from tests.hooks import compare_tags

DYNAMIC = Candidate(strategy="htp")
STATIC = Candidate(strategy="htp", dynamic=False)
TEXT_AXES = {0: "batch_size", 1: "sequence_length"}
IMAGE_AXES = {0: "batch_size", 2: "height", 3: "width"}


def text(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": torch.randint(5, 50, (batch, length)), "attention_mask": mask}


def image(batch: int, height: int, width: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, height, width)}


def export(
    model: nn.Module,
    inputs: dict[str, Tensor],
    candidate: Candidate,
    folder: Path,
    axes: dict[int, str] | None,
) -> ExportArtifact:
    request = request_for(model, inputs, candidate, folder, axes=dict.fromkeys(inputs, axes or {}))
    return HtpStrategy()(request)


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    return tiny_model("bert")


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return tiny_model("resnet")


def test_bert_with_dynamic_axes(bert: nn.Module, tmp_path: Path) -> None:
    path = export(bert, text(2, 7), DYNAMIC, tmp_path, TEXT_AXES).path
    for sizes in ((2, 7), (3, 11), (5, 4)):
        assert largest_error(path, bert, text(*sizes)) < 1e-5


def test_bert_at_fixed_size(bert: nn.Module, tmp_path: Path) -> None:
    path = export(bert, text(2, 7), STATIC, tmp_path, TEXT_AXES).path
    assert largest_error(path, bert, text(2, 7)) < 1e-5
    assert "Shape" not in {node.op_type for node in onnx.load(path).graph.node}


def test_resnet_with_dynamic_axes(resnet: nn.Module, tmp_path: Path) -> None:
    path = export(resnet, image(2, 64, 96), DYNAMIC, tmp_path, IMAGE_AXES).path
    for sizes in ((2, 64, 96), (3, 96, 32)):
        assert largest_error(path, resnet, image(*sizes)) < 1e-5


def test_resnet_at_fixed_size(resnet: nn.Module, tmp_path: Path) -> None:
    path = export(resnet, image(2, 64, 64), STATIC, tmp_path, IMAGE_AXES).path
    assert largest_error(path, resnet, image(2, 64, 64)) < 1e-5


def test_a_decoder_whose_padding_comes_first(tmp_path: Path) -> None:
    model: Any = tiny_model("llama")
    model.config.use_cache = False

    def inputs(batch: int, length: int) -> dict[str, Tensor]:
        return {name: tensor.flip(1) for name, tensor in text(batch, length).items()}

    path = export(model, inputs(2, 7), DYNAMIC, tmp_path, TEXT_AXES).path
    assert largest_error(path, model, inputs(3, 9)) < 1e-4


@pytest.mark.parametrize("candidate", [DYNAMIC, STATIC], ids=str)
def test_tags_are_those_that_forward_hooks_see(
    bert: nn.Module, resnet: nn.Module, tmp_path: Path, candidate: Candidate
) -> None:
    for name, model, inputs, axes in (
        ("bert", bert, text(2, 7), TEXT_AXES),
        ("resnet", resnet, image(2, 64, 96), IMAGE_AXES),
    ):
        folder = tmp_path / name
        folder.mkdir()
        artifact = export(model, inputs, candidate, folder, axes)
        agreement = compare_tags(artifact.path, model, inputs)
        assert agreement.wrong == []
        assert agreement.identified > agreement.traced / 4
        assert artifact.traced_share == 1.0


def test_a_parameter_is_read_by_the_module_that_owns_it(bert: nn.Module, tmp_path: Path) -> None:
    model = ir.load(export(bert, text(2, 7), DYNAMIC, tmp_path, TEXT_AXES).path)
    owners = {name: name.rpartition(".")[0] for name, _ in bert.named_parameters()}
    read = {
        (value.name, scope.path)
        for node in model.graph
        for value in node.inputs
        if value is not None and value.name in owners and (scope := scope_of(node)) is not None
    }
    assert read == set(owners.items())


def test_calls_of_a_shared_module_are_told_apart(tmp_path: Path) -> None:
    model = Shared().eval().requires_grad_(False)
    path = export(model, {"x": torch.randn(2, 6)}, STATIC, tmp_path, None).path
    scopes = {scope_of(node) for node in ir.load(path).graph}
    linear = {scope for scope in scopes if scope is not None and scope.path == "block.0"}
    assert linear == {ModuleScope("block.0", 0), ModuleScope("block.0", 1)}


def test_an_lstm_stays_one_operator_over_any_number_of_steps(tmp_path: Path) -> None:
    model = Lstm().eval().requires_grad_(False)
    axes = {0: "batch_size", 1: "steps"}
    path = export(model, {"sequence": torch.randn(2, 7, 6)}, DYNAMIC, tmp_path, axes).path
    assert Counter(node.op_type for node in onnx.load(path).graph.node)["LSTM"] == 2
    assert largest_error(path, model, {"sequence": torch.randn(3, 12, 6)}) < 1e-5


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, bidirectional=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        every, last = self.gru(x)
        return every, last


def test_a_gru_with_dynamic_axes(tmp_path: Path) -> None:
    model = Gru().eval().requires_grad_(False)
    axes = {0: "steps", 1: "batch_size"}
    path = export(model, {"x": torch.randn(6, 2, 4)}, DYNAMIC, tmp_path, axes).path
    assert largest_error(path, model, {"x": torch.randn(9, 3, 4)}) < 1e-5


class Mutates(nn.Module):
    """Writes through views, into a view of a view, over itself, and into a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.count += 1
        table = torch.zeros_like(x)
        table[:, 1:] = x[:, :-1]
        before = table[0]
        table.transpose(0, 1)[2].mul_(3.0)
        table[:, 0].unsqueeze(1).add_(self.count)
        result = x * 2
        result.relu_().sub_(1.0)
        return {"table": table, "row": before, "result": result}


class MutatesAndLooks(Mutates):
    """Asks for a value, so that it has to run on real tensors."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x if float(x[0, 0]) < 1e9 else -x)


class MutatesChunk(nn.Module):
    """Writes to one of several views, which only functionalisation knows how to write back."""

    def forward(self, x: Tensor) -> Tensor:
        square = x + 1
        square.chunk(2, dim=1)[1].mul_(2.0)
        return square


class MutatesDiagonal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        square = x + 1
        square.diagonal(dim1=-2, dim2=-1).mul_(2.0)
        return square


def test_mutation_that_cannot_be_rewritten_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be rewritten"):
        export(MutatesDiagonal(), {"x": torch.randn(4, 4)}, STATIC, tmp_path, None)


@pytest.mark.parametrize("candidate", [DYNAMIC, STATIC], ids=str)
@pytest.mark.parametrize("build", [Mutates, MutatesAndLooks, MutatesChunk])
def test_mutation_is_kept(tmp_path: Path, candidate: Candidate, build: type[nn.Module]) -> None:
    model = build()
    artifact = export(model, {"x": torch.randn(4, 4)}, candidate, tmp_path, {0: "rows"})
    assert largest_error(artifact.path, model, {"x": torch.randn(4, 4)}) < 1e-6
    assert artifact.traced_share == 1.0


@pytest.mark.parametrize("build", [Mutates, MutatesAndLooks])
def test_recording_leaves_buffers_as_they_were(build: type[Mutates]) -> None:
    model = build()
    decompositions = torchlib.toolkit().decompositions
    recording.record(model, {"x": torch.randn(4, 4)}, {}, decompositions=decompositions)
    assert float(model.count) == 0.0


class Promotes(nn.Module):
    """Mixes dtypes as PyTorch allows and ONNX does not."""

    def forward(self, x: Tensor, n: Tensor) -> dict[str, Tensor]:
        return {
            "product": x * n,
            "ratio": n / 2,
            "scaled": n * 0.5,
            "compared": (n > 1.5).sum(dim=0),
            "joined": torch.cat([x, n], dim=1),
            "chosen": torch.where(n > 2, n, x),
            "root": torch.sqrt(n),
        }


def test_types_are_promoted(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(3, 2), "n": torch.arange(6).reshape(3, 2)}
    path = export(Promotes(), inputs, DYNAMIC, tmp_path, {0: "rows"}).path
    assert largest_error(path, Promotes(), inputs) < 1e-6


def test_the_taken_branch_is_recorded_with_dynamic_axes(tmp_path: Path) -> None:
    model = Branch().eval().requires_grad_(False)
    path = export(model, {"x": torch.ones(2, 6)}, DYNAMIC, tmp_path, {0: "batch_size"}).path
    assert largest_error(path, model, {"x": torch.rand(5, 6)}) < 1e-5
    assert largest_error(path, model, {"x": -torch.rand(5, 6)}) > 1e-3


class Divides(nn.Module):
    """Divides whole numbers, on the way that a value chooses."""

    def forward(self, n: Tensor) -> tuple[Tensor, Tensor]:
        shift = 1 if n.abs().sum().item() > 0 else 0
        return (n + shift) // 3, torch.div(n, -2, rounding_mode="floor")


def test_whole_numbers_are_rounded_down_with_dynamic_axes(tmp_path: Path) -> None:
    path = export(Divides(), {"n": torch.arange(-5, 5)}, DYNAMIC, tmp_path, {0: "length"}).path
    assert largest_error(path, Divides(), {"n": torch.arange(-9, 12)}) == 0


class Climbs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        highest, where = x.cummax(dim=-1)
        return highest, where, torch.cummin(x, 0).values


class DividesInPlace(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(x.shape[1], dtype=torch.float32)
        steps //= 2
        steps.mul_(0.5).copy_(2**steps)
        return x / steps, x.clone().expm1_()


def test_what_writes_in_place_is_lowered_as_what_does_not(tmp_path: Path) -> None:
    axes = {0: "rows", 1: "length"}
    path = export(DividesInPlace(), {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path, axes).path
    assert largest_error(path, DividesInPlace(), {"x": torch.randn(4, 7)}) < 1e-6


def test_running_extremes(tmp_path: Path) -> None:
    axes = {0: "rows", 1: "length"}
    path = export(Climbs(), {"x": torch.randn(2, 3)}, DYNAMIC, tmp_path, axes).path
    assert largest_error(path, Climbs(), {"x": torch.randn(4, 7)}) == 0


class Counts(nn.Module):
    def forward(self, n: Tensor) -> Tensor:
        return nn.functional.one_hot(n.argsort(-1), n.shape[-1])


def test_as_many_classes_as_an_axis_has_elements(tmp_path: Path) -> None:
    axes = {0: "rows", 1: "length"}
    path = export(Counts(), {"n": torch.randperm(6).reshape(2, 3)}, DYNAMIC, tmp_path, axes).path
    assert largest_error(path, Counts(), {"n": torch.randperm(20).reshape(4, 5)}) == 0


def test_a_loop_over_a_value_is_recorded_as_often_as_it_ran(tmp_path: Path) -> None:
    model = Loop().eval().requires_grad_(False)
    inputs = {"x": torch.randn(2, 5), "n": torch.tensor(3)}
    path = export(model, inputs, STATIC, tmp_path, None).path
    assert Counter(node.op_type for node in onnx.load(path).graph.node)["Tanh"] == 3


class Unrolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x[:, 0]
        for step in range(operator.index(x.shape[1])):
            total = total * 0.5 + x[:, step]
        return total


def test_an_axis_that_forward_fixes_is_named_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"axis steps became fixed at 6 by test_htp\.py:\d+"):
        export(Unrolled(), {"x": torch.randn(2, 6)}, DYNAMIC, tmp_path, {0: "rows", 1: "steps"})


class Masks(nn.Module):
    """Reads and writes at masks beside other indices."""

    def forward(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        chosen, written, cube = rows > 0, x.clone(), x[:, :, None].repeat(1, 1, 3)
        written[chosen, columns] = -x[chosen, columns]
        across, both = x.clone(), cube.clone()
        across[:, x[0] > 0] = 2.0
        both[x > 0, 1] = 5.0
        return written, across, both, cube[x > 0, 1]


def test_masks_among_several_indices(tmp_path: Path) -> None:
    x = torch.randn(4, 5)
    inputs = {"x": x, "rows": torch.tensor([1, 0, 1, 0]), "columns": torch.tensor([3, 4])}
    path = export(Masks(), inputs, STATIC, tmp_path, None).path
    other = {"x": -x, "rows": torch.tensor([0, 1, 0, 1]), "columns": torch.tensor([0, 2])}
    for given in (inputs, other):
        assert largest_error(path, Masks(), given) < 1e-6


class Turns(nn.Module):
    """Rotates pairs of features by angles, as complex numbers."""

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        turns = torch.exp(torch.complex(torch.zeros_like(angle), angle)).unsqueeze(-2) * 0.5
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real((pairs * turns)[:, -1]).flatten(1)


def test_complex_numbers(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(2, 3, 8), "angle": torch.randn(2, 4)}
    path = export(Turns(), inputs, DYNAMIC, tmp_path, {0: "batch"}).path
    assert (
        largest_error(path, Turns(), {"x": torch.randn(5, 3, 8), "angle": torch.randn(5, 4)}) < 1e-5
    )


class Unlowerable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.special.airy_ai(x)
        return values


def test_an_operator_without_a_lowering_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"aten\.special_airy_ai\.default has") as caught:
        export(Unlowerable(), {"x": torch.eye(3)}, STATIC, tmp_path, None)
    assert (caught.value.strategy, caught.value.stage) == ("htp", "lower")
    assert not list(tmp_path.iterdir())


class Attends(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def test_a_query_that_may_attend_to_nothing_gives_zeros(tmp_path: Path) -> None:
    mask = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    inputs = {"x": torch.randn(2, 3, 4, 8), "mask": mask}
    path = export(Attends(), inputs, STATIC, tmp_path, None).path
    assert largest_error(path, Attends(), inputs) < 1e-5


def test_experts_are_set_back(tmp_path: Path) -> None:
    model: Any = tiny_model("mixtral")
    model.config.use_cache = False
    before = model.config._experts_implementation
    path = export(model, text(2, 7), STATIC, tmp_path, None).path
    assert largest_error(path, model, text(2, 7)) < 1e-4
    assert model.config._experts_implementation == before


def test_weights_are_not_copied(bert: Any) -> None:
    inputs = text(2, 7)
    tools = torchlib.toolkit()
    record = recording.record(bert, inputs, {}, decompositions=tools.decompositions)
    weight = bert.embeddings.word_embeddings.weight
    model = torchlib.lower(record, {id(weight): "embeddings"})
    tensor = model.graph.initializers["embeddings"].const_value
    assert tensor is not None
    assert tensor.raw.data_ptr() == weight.data_ptr()


# What of torch's inside this strategy rests on; when one of these fails, torch has changed.


@pytest.mark.parametrize("part", internals.RECORDING)
def test_torch_still_has(part: str) -> None:
    internals.find(part)  # raises where it is gone; some are None until they are used


def test_torch_still_annotates_what_make_fx_records() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval().requires_grad_(False)
    decompositions = torchlib.toolkit().decompositions
    record = recording.record(model, {"input": torch.ones(1, 2)}, {}, decompositions=decompositions)
    scopes = {recording.scope_of(node) for node in record.graph.nodes if node.op == "call_function"}
    assert scopes == {ModuleScope("0", 0), ModuleScope("1", 0)}


def test_without_a_private_part_the_strategy_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("torch.onnx._internal.exporter._building.OpRecorder")
    with pytest.raises(StrategyUnavailableError, match="OpRecorder") as caught:
        export(nn.ReLU(), {"input": torch.ones(2)}, STATIC, tmp_path, None)
    assert caught.value.strategy == "htp"


def test_too_old_a_torch_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.4.0")
    with pytest.raises(StrategyUnavailableError, match=r"2\.4\.0"):
        internals.require_supported_torch(internals.RECORDING)
