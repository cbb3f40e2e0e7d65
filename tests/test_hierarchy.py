"""Tags, names and the map of modules: written by every strategy, read back from the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from scripts.zoo import tiny_model
from strategies import registry
from strategies.base import Candidate
from strategies.errors import ExportError
from strategies.hierarchy import MODEL_MAP, node_prefix, read_hierarchy
from tests.exporting import request_for
from tests.hooks import compare_tags

Exported = tuple[Path, nn.Module, dict[str, Tensor]]
Export = Callable[..., Exported]

MODELS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "bert": lambda: {
        "input_ids": torch.randint(5, 50, (2, 7)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
    },
    "resnet": lambda: {"pixel_values": torch.randn(2, 3, 64, 48)},
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a tiny model by a strategy, once for all tests."""
    done: dict[tuple[str, str, bool], Exported] = {}

    def run(name: str, strategy: str, *, dynamic: bool = True) -> Exported:
        key = (name, strategy, dynamic)
        if key not in done:
            torch.manual_seed(0)
            model: Any = tiny_model(name)
            inputs = MODELS[name]()
            if hasattr(model, "set_attn_implementation"):
                # What a capture chooses, so that witness and file run the same operations.
                model.set_attn_implementation("eager")
            request = request_for(
                model,
                inputs,
                Candidate(strategy=strategy, dynamic=dynamic),
                tmp_path_factory.mktemp(strategy),
                axes={input_name: {0: "batch_size"} for input_name in inputs},
            )
            done[key] = (registry.resolve(strategy)(request).path, model, inputs)
        return done[key]

    return run


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("strategy", registry.BUILTIN)
@pytest.mark.parametrize("name", MODELS)
def test_every_traced_tag_is_the_module_that_hooks_saw(
    export: Export, name: str, strategy: str, *, dynamic: bool
) -> None:
    path, model, inputs = export(name, strategy, dynamic=dynamic)
    agreement = compare_tags(path, model, inputs)
    assert agreement.wrong == []
    assert agreement.traced >= 0.8 * read_hierarchy(path).nodes
    # The witness could name the issuer of this many by the values alone.
    assert agreement.identified >= 20


@pytest.mark.parametrize("strategy", registry.BUILTIN)
def test_every_node_is_tagged_and_uniquely_named_after_its_module(
    export: Export, strategy: str
) -> None:
    path, model, _ = export("bert", strategy)
    nodes = onnx.load(path).graph.node
    modules = dict(model.named_modules())
    assert len({node.name for node in nodes}) == len(nodes)
    for node in nodes:
        tags = {entry.key: entry.value for entry in node.metadata_props}
        assert tags["autoexport.module"] in modules
        assert tags["autoexport.attribution"] in {"traced", "projected"}
        assert node.name.startswith(f"{node_prefix(tags['autoexport.module'])}/{node.op_type}")
        assert tags["namespace"].startswith(": transformers.models.bert.modeling_bert.BertModel/")
        assert not any("stack_trace" in key or "/" in key for key in tags)


@pytest.mark.parametrize("strategy", registry.BUILTIN)
def test_no_local_path_is_left_in_the_file(export: Export, strategy: str) -> None:
    content = export("bert", strategy)[0].read_bytes()
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_counts_and_bytes_are_the_models(export: Export) -> None:
    path, model, _ = export("bert", "usage_based")
    hierarchy = read_hierarchy(path)
    assert hierarchy.nodes == len(onnx.load(path).graph.node)
    assert 0 < hierarchy.traced <= hierarchy.nodes
    assert [entry.path for entry in hierarchy.modules] == [
        name for name, _ in model.named_modules()
    ]
    held = {name: tensor.nbytes for name, tensor in model.named_parameters()}
    entry = {entry.path: entry for entry in hierarchy.modules}["encoder.layer.0.output.dense"]
    expected = sum(size for name, size in held.items() if name.startswith(f"{entry.path}."))
    assert entry.parameter_bytes == expected
    assert entry.class_name == "torch.nn.modules.linear.Linear"


def test_the_map_survives_onnxruntimes_optimiser(export: Export) -> None:
    path, _, _ = export("bert", "usage_based")
    # Beside the file, whose weights it refers to.
    saved = path.with_name("optimised.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(saved)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(saved)
    assert not any(node.metadata_props for node in optimised.graph.node)
    counts = {entry.path: entry.nodes for entry in read_hierarchy(saved).modules}
    assert counts["encoder.layer.1.intermediate.dense"] > 0


def test_weights_keep_their_parameters_names(export: Export) -> None:
    path, model, _ = export("resnet", "usage_based")
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert {name for name, _ in model.named_parameters()} <= names


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("", ""),
        ("encoder", "/encoder"),
        ("encoder.layer.0.attention", "/encoder/layer.0/attention"),
        ("blocks.0.1.proj", "/blocks.0.1/proj"),
        ("0.weight", "/0/weight"),
    ],
)
def test_prefix_keeps_numbers_with_the_name_before(path: str, prefix: str) -> None:
    assert node_prefix(path) == prefix


class Shared(nn.Module):
    """Calls one layer three times, twice from inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.twice = Twice(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.twice(self.layer(x))
        return result


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.relu(self.layer(x)))
        return result


@pytest.mark.parametrize("strategy", registry.BUILTIN)
def test_calls_of_a_shared_module_are_told_apart(strategy: str, tmp_path: Path) -> None:
    model = Shared().eval().requires_grad_(False)
    candidate = Candidate(strategy=strategy, dynamic=False)
    request = request_for(model, {"x": torch.randn(2, 4)}, candidate, tmp_path)
    path = registry.resolve(strategy)(request).path
    calls = [
        (tags["autoexport.module"], tags["autoexport.call"])
        for node in onnx.load(path).graph.node
        if node.op_type in {"Gemm", "MatMul"}
        for tags in [{entry.key: entry.value for entry in node.metadata_props}]
    ]
    assert calls == [("layer", "0"), ("layer", "1"), ("layer", "2")]


def test_files_without_a_hierarchy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot read"):
        read_hierarchy(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ExportError, match="cannot read"):
        read_hierarchy(tmp_path / "text.onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="holds no module hierarchy"):
        read_hierarchy(tmp_path / "foreign.onnx")


def test_the_map_is_plain_json(export: Export) -> None:
    model = onnx.load(export("resnet", "usage_based")[0], load_external_data=False)
    entry = next(entry.value for entry in model.metadata_props if entry.key == MODEL_MAP)
    table = json.loads(entry)
    assert table[""] == ["", "transformers.models.resnet.modeling_resnet.ResNetModel"]
