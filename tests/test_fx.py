"""The torch.export strategy: numbers, exact tags, the file's interface, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from scripts.plain_control import Branch
from scripts.plain_modules import PLAIN
from scripts.plain_networks import Shared
from scripts.zoo import tiny_model
from strategies import fx, mutation
from strategies.base import Candidate, ExportArtifact
from strategies.errors import CaptureError, LoweringError, StrategyUnavailableError
from strategies.fx import FxStrategy
from tests.exporting import largest_error, request_for
from tests.hooks import compare_tags

Exported = tuple[ExportArtifact, nn.Module]
DYNAMIC = Candidate(strategy="fx")
STATIC = Candidate(strategy="fx", dynamic=False)
TEXT_AXES = {0: "batch_size", 1: "sequence_length"}
IMAGE_AXES = {0: "batch_size", 2: "height", 3: "width"}


def bert_inputs(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": torch.randint(5, 50, (batch, length)), "attention_mask": mask}


def image_inputs(batch: int, height: int, width: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, height, width)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = tiny_model("bert")
    inputs = bert_inputs(2, 7)
    axes = dict.fromkeys(inputs, TEXT_AXES)
    directory = tmp_path_factory.mktemp("bert")
    return FxStrategy()(request_for(model, inputs, DYNAMIC, directory, axes=axes)), model


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = tiny_model("resnet")
    axes = {"pixel_values": IMAGE_AXES}
    directory = tmp_path_factory.mktemp("resnet")
    request = request_for(model, image_inputs(2, 40, 48), DYNAMIC, directory, axes=axes)
    return FxStrategy()(request), model


def tags(node: onnx.NodeProto) -> dict[str, str]:
    return {
        entry.key.removeprefix("autoexport."): entry.value
        for entry in node.metadata_props
        if entry.key.startswith("autoexport.")
    }


def assert_parameters_are_used_by_their_owners(path: Path, model: nn.Module) -> None:
    graph = onnx.load(path).graph
    parameters = {name for name, _ in model.named_parameters()}
    used = [(name, tags(node)) for node in graph.node for name in node.input if name in parameters]
    assert used
    assert {tag["attribution"] for _, tag in used} == {"traced"}
    wrong = [(name, tag) for name, tag in used if tag["module"] != name.rpartition(".")[0]]
    assert wrong == []


@pytest.mark.parametrize(("batch", "length"), [(2, 7), (3, 11), (1, 4)])
def test_bert_at_other_sizes(bert: Exported, batch: int, length: int) -> None:
    artifact, model = bert
    assert largest_error(artifact.path, model, bert_inputs(batch, length)) < 1e-5


@pytest.mark.parametrize("sizes", [(2, 40, 48), (3, 56, 32), (1, 64, 64)])
def test_resnet_at_other_sizes(resnet: Exported, sizes: tuple[int, int, int]) -> None:
    artifact, model = resnet
    assert largest_error(artifact.path, model, image_inputs(*sizes)) < 1e-5


def test_inputs_and_outputs_are_exactly_those_asked_for(bert: Exported) -> None:
    graph = onnx.load(bert[0].path).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["last_hidden_state", "pooler_output"]
    dims = [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch_size", "sequence_length"]


def test_every_parameter_is_used_by_the_module_that_owns_it(
    bert: Exported, resnet: Exported
) -> None:
    for artifact, model in (bert, resnet):
        assert_parameters_are_used_by_their_owners(artifact.path, model)


def test_tags_agree_with_hooks(bert: Exported, resnet: Exported) -> None:
    # A fresh BatchNorm hardly changes its input, so with other numbers the two may look the same.
    torch.manual_seed(0)
    for (artifact, model), inputs in ((bert, bert_inputs(2, 7)), (resnet, image_inputs(2, 40, 48))):
        agreement = compare_tags(artifact.path, model, inputs)
        assert agreement.wrong == []
        assert agreement.identified > agreement.traced / 4
        assert artifact.traced_share > 0.95


def test_nothing_of_the_wrapper_or_of_local_paths_is_left(bert: Exported) -> None:
    text = str([node.metadata_props for node in onnx.load(bert[0].path).graph.node])
    assert "NamedCall" not in text
    assert "module.encoder" not in text
    assert ".py" not in text


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "dict_output"])
def test_plain_modules_at_another_size(name: str, tmp_path: Path) -> None:
    model, inputs = PLAIN[name]()
    axes = {key: {0: "batch_size"} for key in inputs}
    artifact = FxStrategy()(request_for(model, inputs, DYNAMIC, tmp_path, axes=axes))
    larger = {key: torch.cat([tensor, tensor * 2]) for key, tensor in inputs.items()}
    assert largest_error(artifact.path, model, larger) < 1e-5


def test_a_static_file_has_the_sizes_of_the_example(tmp_path: Path) -> None:
    model, inputs = PLAIN["mlp"]()
    artifact = FxStrategy()(request_for(model, inputs, STATIC, tmp_path))
    shape = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == list(inputs["x"].shape)


def test_calls_of_a_shared_module_are_told_apart(tmp_path: Path) -> None:
    model, inputs = PLAIN["shared"]()
    artifact = FxStrategy()(request_for(model, inputs, STATIC, tmp_path))
    found = [tags(node) for node in onnx.load(artifact.path).graph.node]
    calls = {tag["call"] for tag in found if tag["module"] == "block.0"}
    assert calls == {"0", "1"}


class TwoNames(nn.Module):
    """One module under two names, called under both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Shared()
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.first(x) + self.second(x * 2)
        return total


def test_a_module_of_two_names_goes_by_its_first(tmp_path: Path) -> None:
    model = TwoNames().eval().requires_grad_(False)
    artifact = FxStrategy()(request_for(model, {"x": torch.randn(2, 6)}, STATIC, tmp_path))
    found = [tags(node) for node in onnx.load(artifact.path).graph.node]
    assert {tag["call"] for tag in found if tag["module"] == "first.head"} == {"0", "1"}
    assert {tag["module"].partition(".")[0] for tag in found} <= {"", "first"}


def test_a_branch_on_a_value_names_its_line(tmp_path: Path) -> None:
    model = Branch().eval().requires_grad_(False)
    request = request_for(model, {"x": torch.ones(2, 6)}, STATIC, tmp_path)
    with pytest.raises(CaptureError, match=r"plain_control\.py:\d+: if bool\(x\.sum\(\) > 0\):"):
        FxStrategy()(request)


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.arange(len(range(x.shape[1])), dtype=torch.float32)


def test_an_axis_that_came_out_fixed_is_an_error(tmp_path: Path) -> None:
    axes = {"x": {0: "batch_size", 1: "width"}}
    request = request_for(FixedSize().eval(), {"x": torch.ones(2, 5)}, DYNAMIC, tmp_path, axes=axes)
    with pytest.raises(CaptureError, match=r"axis 1 \(width\) of x came out fixed at 5"):
        FxStrategy()(request)


class Unlowerable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Airy()

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.part(x)
        return values


class Airy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.special.airy_ai(x)
        return values


def test_an_operator_without_lowering_is_named_with_its_module(tmp_path: Path) -> None:
    request = request_for(Unlowerable().eval(), {"x": torch.randn(3, 3)}, STATIC, tmp_path)
    with pytest.raises(LoweringError, match=r"no lowering for .*airy_ai\S* in part") as info:
        FxStrategy()(request)
    assert info.value.stage == "lower"


class Casting(nn.Module):
    """Has a part converted in forward, to what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.part = self.part.to(torch.float32)
        result: Tensor = self.part.to(dtype=torch.float32)(x)
        return result


def test_a_part_is_converted_to_what_it_is(tmp_path: Path) -> None:
    model, axes = Casting().eval(), {"x": {0: "rows"}}
    candidate = Candidate(strategy="fx", dynamic=True)
    request = request_for(model, {"x": torch.randn(3, 4)}, candidate, tmp_path, axes=axes)
    path = FxStrategy()(request).path
    assert largest_error(path, model, {"x": torch.randn(5, 4)}) < 1e-5


class InPlace(nn.Module):
    """Writes into intermediate values, whole and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        y += x
        z = torch.relu_(y * 2)
        z[:, 1] = y[:, 0]
        return y, z


def test_mutation_is_made_functional_without_a_second_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = []
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *_: again.append(True)
    )
    model = InPlace().eval().requires_grad_(False)
    inputs, axes = {"x": torch.randn(3, 4)}, {"x": {0: "batch_size"}}
    artifact = FxStrategy()(request_for(model, inputs, DYNAMIC, tmp_path, axes=axes))
    assert again == []
    assert largest_error(artifact.path, model, {"x": torch.randn(5, 4)}) < 1e-5


def test_what_cannot_be_done_in_place_is_captured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "rewrite", lambda *_, **__: None)
    model = InPlace().eval().requires_grad_(False)
    inputs = {"x": torch.randn(3, 4)}
    artifact = FxStrategy()(request_for(model, inputs, STATIC, tmp_path))
    assert largest_error(artifact.path, model, inputs) < 1e-5


class MarksColumns(nn.Module):
    """Writes one value to some columns, for which transformers has a fix of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = NewGELUActivation()

    def forward(self, x: Tensor, columns: Tensor) -> Tensor:
        marked: Tensor = self.activation(x).clone()
        marked[:, columns] = torch.tensor(-1.0)
        return marked


def test_what_a_fix_of_transformers_inserts_has_shapes(tmp_path: Path) -> None:
    model, columns = MarksColumns().eval(), torch.tensor([0, 3])
    inputs, axes = {"x": torch.randn(2, 5), "columns": columns}, {"x": {0: "rows", 1: "width"}}
    artifact = FxStrategy()(request_for(model, inputs, DYNAMIC, tmp_path, axes=axes))
    for x in (inputs["x"], torch.randn(3, 7)):
        assert largest_error(artifact.path, model, {"x": x, "columns": columns}) < 1e-5


class Cells(nn.Module):
    """Expands to operators that ask for sizes: a cell, a resize, and a number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(x[:, 0])
        return state, nn.functional.interpolate(x, 6, mode="nearest") * x.numel()


def test_what_operators_expand_to_leaves_sizes_open(tmp_path: Path) -> None:
    model = Cells().eval().requires_grad_(False)
    inputs, axes = {"x": torch.randn(2, 3, 4)}, {"x": {0: "batch_size"}}
    artifact = FxStrategy()(request_for(model, inputs, DYNAMIC, tmp_path, axes=axes))
    for x in (inputs["x"], torch.randn(5, 3, 4)):
        assert largest_error(artifact.path, model, {"x": x}) < 1e-5


def test_mixture_of_experts_gets_its_own_implementation_back(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    config: Any = model.config
    config.use_cache = False
    before = config._experts_implementation
    artifact = FxStrategy()(request_for(model, bert_inputs(2, 7), STATIC, tmp_path))
    assert largest_error(artifact.path, model, bert_inputs(2, 7)) < 1e-5
    assert config._experts_implementation == before != "batched_mm"


def test_patches_of_transformers_end_with_the_attempt(bert: Exported) -> None:
    from transformers.exporters import exporter_onnx

    assert torch.where.__module__ != exporter_onnx.__name__
    assert torch.where is torch._C._VariableFunctions.where


def test_warming_up_is_silent_and_makes_the_next_attempt_possible(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    strategy = FxStrategy()
    strategy.warm_up()
    assert capfd.readouterr() == ("", "")
    model, inputs = PLAIN["mlp"]()
    assert strategy(request_for(model, inputs, STATIC, tmp_path)).nodes == 3


def test_a_torch_without_a_private_part_makes_the_strategy_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fx, "PRIVATE_PARTS", ("torch._ops:GoneInThisVersion",))
    model, inputs = PLAIN["mlp"]()
    with pytest.raises(StrategyUnavailableError, match=r"has no torch\._ops\.GoneInThisVersion"):
        FxStrategy()(request_for(model, inputs, STATIC, tmp_path))
