"""Where results go, and what stands there at every moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from selector.errors import InvalidRequestError
from selector.publishing import plan_target, publish


def stage(folder: Path, value: float, *, external: bool) -> Path:
    folder.mkdir()
    weight = numpy_helper.from_array(np.full((64, 64), value, np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"])],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [weight],
    )
    model = helper.make_model(graph)
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=external,
        location="model.onnx.data",
        size_threshold=0,
    )
    return folder


def weight_of(path: Path) -> float:
    return float(numpy_helper.to_array(onnx.load(path).graph.initializer[0])[0, 0])


@pytest.mark.parametrize("external", [True, False])
def test_a_file_with_its_data_under_its_own_name(tmp_path: Path, external: bool) -> None:
    target = plan_target(tmp_path / "mine.onnx", "x")
    publish(stage(tmp_path / "staged", 1, external=external), target)
    expected = {"mine.onnx", "mine.onnx.data"} if external else {"mine.onnx"}
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == expected
    assert weight_of(target.path) == 1


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_replacing_leaves_exactly_the_new_files(tmp_path: Path, old: bool, new: bool) -> None:
    target = plan_target(tmp_path / "model.onnx", "x")
    publish(stage(tmp_path / "a", 1, external=old), target)
    publish(stage(tmp_path / "b", 2, external=new), target)
    assert weight_of(target.path) == 2
    publish(stage(tmp_path / "c", 3, external=new), target)
    assert weight_of(target.path) == 3
    files = [file for file in tmp_path.iterdir() if file.is_file()]
    assert len(files) == 1 + new


def test_the_old_model_keeps_its_data_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = plan_target(tmp_path / "model.onnx", "x")
    publish(stage(tmp_path / "a", 1, external=True), target)
    replace = Path.replace

    def stop_before_the_model(self: Path, to: Path) -> Path:
        if Path(to) == target.path:
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", stop_before_the_model)
    with pytest.raises(KeyboardInterrupt):
        publish(stage(tmp_path / "b", 2, external=True), target)
    assert weight_of(target.path) == 1


def test_a_folder_gets_the_companions_too(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    target = plan_target(tmp_path / "out", "x")
    publish(stage(tmp_path / "staged", 1, external=False), target, [config])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.onnx", "config.json"}


def test_companions_that_are_already_there_stay(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    target = plan_target(folder, "x")
    publish(stage(tmp_path / "staged", 1, external=False), target, [folder / "config.json"])
    assert (folder / "config.json").read_text() == '{"a": 1}'


def test_by_default_the_file_is_named_after_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = plan_target(None, "tiny-bert")
    assert (target.path, target.is_folder) == (tmp_path / "tiny-bert.onnx", False)


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="does not exist"):
        plan_target(tmp_path / "missing" / "model.onnx", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="it is a file"):
        plan_target(tmp_path / "file", "x")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InvalidRequestError, match="it is a folder"):
        plan_target(tmp_path / "folder.onnx", "x")
    assert list(tmp_path.glob("*.data")) == []


def test_data_of_other_models_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    for name in ("model-v2.onnx", "model-0123abcd.onnx"):
        publish(stage(tmp_path / "s", 5, external=True), plan_target(tmp_path / name, "x"))
        (tmp_path / "s").rmdir()
    target = plan_target(tmp_path / "model.onnx", "x")
    for value in (1, 2):
        publish(stage(tmp_path / f"s{value}", value, external=True), target)
    assert weight_of(target.path) == 2
    assert weight_of(tmp_path / "model-v2.onnx") == 5
    assert weight_of(tmp_path / "model-0123abcd.onnx") == 5
