"""Light verification: shallow copies, and what they and the structure of a file can show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

from scripts import zoo
from selector import auto_export
from selector.eager import Eager, Weights
from selector.errors import InvalidRequestError, VerificationError
from selector.inputs import make_inputs
from selector.light import misplaced, prepare_stand, verify_lightly
from selector.reference import compute_reference
from selector.shallow import plan_shallow
from selector.source import load, resolve
from strategies import registry
from strategies.base import Candidate, ExportRequest
from strategies.calling import flatten_outputs


def unbuilt(name: str, **sizes: Any) -> Any:
    with torch.device("meta"):
        build: Any = AutoModel.from_config
        return build(CONFIG_MAPPING[name](**sizes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", ["num_hidden_layers from 32 to 2"]),
        ("t5", ["num_layers from 6 to 2", "num_decoder_layers from 6 to 2"]),
        ("convnext", ["depths from (3, 3, 9, 3) to (2, 2, 2, 2)"]),
        (
            "clip",
            [
                "text_config.num_hidden_layers from 12 to 2",
                "vision_config.num_hidden_layers from 12 to 2",
            ],
        ),
        # Every fourth layer of 48 attends, so that four show both kinds.
        ("qwen3_next", ["num_hidden_layers from 48 to 4"]),
        # The third is the first whose attention is global.
        ("sam", ["vision_config.num_hidden_layers from 12 to 3"]),
        # As many heads as layers, which are no layers.
        ("vit", ["num_hidden_layers from 12 to 2"]),
    ],
)
def test_layers_are_found_whatever_their_number_is_called(name: str, changes: list[str]) -> None:
    module = unbuilt(name)
    assert list(plan_shallow(module, module.config).changes) == changes


def test_the_copy_is_the_same_every_time_and_the_config_is_left_alone(deep: Any) -> None:
    shallow = plan_shallow(deep, deep.config)
    first: Any = shallow.build(deep)
    second = shallow.build(deep)
    assert deep.config.num_hidden_layers == 5
    assert len(first.encoder.layer) == 2
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_modules_without_a_config_have_no_copy() -> None:
    with pytest.raises(InvalidRequestError, match=r"without a transformers config.*'full'"):
        plan_shallow(nn.Linear(2, 2), None)


def test_a_model_that_is_as_shallow_as_can_be_has_no_copy() -> None:
    module: Any = zoo.tiny_model("bert")
    with pytest.raises(InvalidRequestError, match="lowers its number of layers"):
        plan_shallow(module, module.config)


@pytest.fixture
def deep() -> Any:
    """A BERT of five layers."""
    build: Any = AutoModel.from_config
    sizes: dict[str, Any] = zoo.TEXT | {"num_hidden_layers": 5}
    return build(CONFIG_MAPPING["bert"](**sizes)).eval().requires_grad_(requires_grad=False)


def exported(module: Any, folder: Path) -> tuple[Path, ExportRequest, Any]:
    candidate = Candidate(strategy="usage_based")
    recipe = make_inputs(module, module.config)
    eager = Eager(module, weights=Weights.NEVER)
    reference = compute_reference(module, recipe, unseen=False, eager=eager)
    request = ExportRequest(
        candidate=candidate,
        load_model=lambda: module,
        inputs=recipe.make(),
        dynamic_axes=recipe.dynamic_axes,
        constants=recipe.constants,
        output_names=reference.output_names,
        output_axes=reference.output_axes,
        directory=folder,
    )
    path = registry.resolve(candidate.strategy)(request).path
    stand = prepare_stand(module, module.config, recipe, value_dependent=False)
    return path, request, {"reference": reference, "stand": stand}


# torch's tracer calls functions of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_structure_and_a_copys_numbers(deep: Any, tmp_path: Path) -> None:
    path, request, held = exported(deep, tmp_path)
    report = verify_lightly(path, deep, request, **held)
    assert (report.ok, report.level) == (True, "light")
    assert [item.status for item in report.outputs] == ["right", "right"]
    assert report.nodes > 200
    assert "num_hidden_layers from 5 to 2" in report.notes[-1]
    assert {item.name for item in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_light_verification_finds_what_is_wrong(deep: Any, tmp_path: Path) -> None:
    path, request, held = exported(deep, tmp_path)
    stand = held["stand"]
    doubled = {name: array * 2 for name, array in stand.reference.example.outputs.items()}
    cases = (replace(stand.reference.example, outputs=doubled), *stand.reference.cases[1:])
    wrong = held | {"stand": replace(stand, reference=replace(stand.reference, cases=cases))}
    with pytest.raises(VerificationError, match="a copy with num_hidden_layers from 5 to 2 and"):
        verify_lightly(path, deep, request, **wrong)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.node[-1].metadata_props:
        entry.value = "encoder.layer.9" if entry.key == "autoexport.module" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VerificationError, match="modules that the model does not have"):
        verify_lightly(path, deep, request, **held)
    data = path.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(VerificationError, match=r"model\.onnx\.data, which has"):
        verify_lightly(path, deep, request, **held)


def test_the_level_is_written_into_the_file_and_told(deep: Any, tmp_path: Path) -> None:
    deep.save_pretrained(tmp_path / "checkpoint")
    result = auto_export(tmp_path / "checkpoint", tmp_path / "light.onnx", verify="light")
    assert result.verification.level == "light"
    assert any(note.startswith("verified lightly: ") for note in result.notes)
    entries = {item.key: item.value for item in onnx.load(result.path).metadata_props}
    assert json.loads(entries["autoexport.verification"])["level"] == "light"
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = flatten_outputs(deep(input_ids=tokens))
    session = ort.InferenceSession(str(result.path))
    inputs = {
        "input_ids": tokens.numpy(),
        "attention_mask": torch.ones_like(tokens).numpy(),
        "token_type_ids": torch.zeros_like(tokens).numpy(),
    }
    for (_, mine), theirs in zip(expected, session.run(None, inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), mine)


def test_bytes_of_another_tensor_are_noticed(deep: Any, tmp_path: Path) -> None:
    deep.save_pretrained(tmp_path / "checkpoint")
    result = auto_export(tmp_path / "checkpoint", tmp_path / "light.onnx", verify="off")
    loaded = load(resolve(tmp_path / "checkpoint"), real=False)
    assert misplaced(result.path, loaded.module, loaded.weights.locate) is None
    model = onnx.load(result.path, load_external_data=False)
    stored = {
        item.name: item
        for item in model.graph.initializer
        if item.external_data and item.name.endswith("query.weight")
    }
    assert len(stored) == 5
    first, second, *_ = stored.values()
    moved = [(entry.key, entry.value) for entry in second.external_data]
    del first.external_data[:]
    for key, value in moved:
        first.external_data.add(key=key, value=value)
    result.path.write_bytes(model.SerializeToString())
    assert first.name in str(misplaced(result.path, loaded.module, loaded.weights.locate))
