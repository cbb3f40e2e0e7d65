"""Where results go, and what stands there at every moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from scripts.zoo import tiny_model
from selector import auto_export
from selector.errors import InvalidRequestError
from selector.publishing import Target, plan_target, publish


def stage(folder: Path, value: float, *names: str, producer: str = "autoexport") -> Path:
    """A model that adds up its weights, one in each of the data files named, else within."""
    folder.mkdir()
    array = np.full((64, 64), value, np.float32)
    weights = [numpy_helper.from_array(array, name) for name in names or ("inside",)]
    graph = helper.make_graph(
        [helper.make_node("Sum", ["x", *(weight.name for weight in weights)], ["y"])],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        weights,
    )
    model = helper.make_model(graph, producer_name=producer)
    for weight, name in zip(model.graph.initializer, names, strict=False):
        set_external_data(weight, name)
    onnx.save(model, folder / "model.onnx")
    return folder


def names_for(target: Target, external: bool) -> tuple[str, ...]:
    """What an attempt stages its data files as: weights from memory, and two shards."""
    endings = (".onnx.data", "-00001-of-00002.safetensors", "-00002-of-00002.safetensors")
    return tuple(f"{target.data_stem}{ending}" for ending in endings) if external else ()


def files_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file()}


def weight_of(path: Path) -> float:
    return float(numpy_helper.to_array(onnx.load(path).graph.initializer[0])[0, 0])


@pytest.mark.parametrize("external", [True, False])
def test_a_file_with_its_data_under_its_own_name(tmp_path: Path, external: bool) -> None:
    target = plan_target(tmp_path / "mine.onnx", "x")
    names = names_for(target, external)
    publish(stage(tmp_path / "staged", 1, *names), target)
    assert files_in(tmp_path) == {"mine.onnx", *names}
    assert all(name.startswith(("mine.onnx.data", "mine-0")) for name in names)
    assert weight_of(target.path) == 1


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_replacing_leaves_exactly_the_new_files(tmp_path: Path, old: bool, new: bool) -> None:
    for number, external in enumerate((old, new, new)):
        target = plan_target(tmp_path / "model.onnx", "x")
        names = names_for(target, external)
        publish(stage(tmp_path / f"staged{number}", number, *names), target)
        assert weight_of(target.path) == number
        assert files_in(tmp_path) == {"model.onnx", *names}


def test_the_old_model_keeps_its_data_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = plan_target(tmp_path / "model.onnx", "x")
    publish(stage(tmp_path / "a", 1, *names_for(target, True)), target)
    replace = Path.replace

    def stop_before_the_model(self: Path, to: Path) -> Path:
        if Path(to) == target.path:
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", stop_before_the_model)
    again = plan_target(tmp_path / "model.onnx", "x")
    with pytest.raises(KeyboardInterrupt):
        publish(stage(tmp_path / "b", 2, *names_for(again, True)), again)
    assert weight_of(target.path) == 1


def test_names_that_were_taken_meanwhile(tmp_path: Path) -> None:
    one, two = (plan_target(tmp_path / "model.onnx", "x") for _ in range(2))
    assert one.data_stem == two.data_stem == "model"
    publish(stage(tmp_path / "a", 1, *names_for(one, True)), one)
    publish(stage(tmp_path / "b", 2, *names_for(two, True)), two)
    assert weight_of(two.path) == 2
    assert len(files_in(tmp_path)) == 4


@pytest.mark.parametrize(
    ("producer", "later", "kept"),
    [("autoexport", 0, False), ("autoexport", 10, True), ("another", 0, True)],
)
def test_only_data_that_an_export_wrote_is_removed(
    producer: str, later: int, kept: bool, tmp_path: Path
) -> None:
    target = plan_target(tmp_path / "model.onnx", "x")
    data = tmp_path / "model.safetensors"
    publish(stage(tmp_path / "a", 1, data.name, producer=producer), target)
    written = target.path.stat().st_mtime_ns + later * 1_000_000_000
    os.utime(data, ns=(written, written))
    publish(stage(tmp_path / "b", 2), target)
    assert data.exists() is kept


def test_a_checkpoint_s_own_files_stay(tmp_path: Path) -> None:
    target = plan_target(tmp_path / "model.onnx", "x")
    weights = tmp_path / "model.safetensors"
    publish(stage(tmp_path / "a", 1, weights.name), target)
    again = plan_target(tmp_path / "model.onnx", "x")
    assert again.data_stem != "model"
    new = f"{again.data_stem}.safetensors"
    publish(stage(tmp_path / "b", 2, new), again, spare=[weights])
    assert files_in(tmp_path) == {"model.onnx", "model.safetensors", new}
    publish(stage(tmp_path / "c", 3), plan_target(target.path, "x"), spare=[weights])
    assert files_in(tmp_path) == {"model.onnx", "model.safetensors"}


def test_a_model_goes_into_its_own_checkpoint_s_folder(tmp_path: Path) -> None:
    model: Any = tiny_model("bert", seed=3)
    model.save_pretrained(tmp_path / "bert")
    before = {file.name: file.read_bytes() for file in (tmp_path / "bert").iterdir()}
    result = auto_export(tmp_path / "bert", tmp_path / "bert", weights="link")
    made = files_in(tmp_path / "bert") - set(before)
    (data,) = made - {"model.onnx"}
    assert (tmp_path / "bert" / data).samefile(tmp_path / "bert" / "model.safetensors")
    assert result.verification.ok
    for name, content in before.items():
        assert (tmp_path / "bert" / name).read_bytes() == content
    # A folder that was exported into is a checkpoint itself, and the old model refers to it.
    out = auto_export(tmp_path / "bert", tmp_path / "out").path.parent
    again = auto_export(out, out)
    assert (out / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert again.verification.ok
    assert len(files_in(out)) == len(before) + 2


def test_a_folder_gets_the_companions_too(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    target = plan_target(tmp_path / "out", "x")
    publish(stage(tmp_path / "staged", 1), target, [config])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.onnx", "config.json"}


def test_companions_that_are_already_there_stay(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    target = plan_target(folder, "x")
    publish(stage(tmp_path / "staged", 1), target, [folder / "config.json"])
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
        target = plan_target(tmp_path / name, "x")
        publish(stage(tmp_path / "s", 5, *names_for(target, True)), target)
        (tmp_path / "s").rmdir()
    for value in (1, 2):
        target = plan_target(tmp_path / "model.onnx", "x")
        publish(stage(tmp_path / f"s{value}", value, *names_for(target, True)), target)
    assert weight_of(target.path) == 2
    assert weight_of(tmp_path / "model-v2.onnx") == 5
    assert weight_of(tmp_path / "model-0123abcd.onnx") == 5


def test_a_folder_on_another_file_system_is_staged_in(tmp_path: Path) -> None:
    inside = Path("/dev/shm")  # noqa: S108 - a file system that Linux always mounts
    assert plan_target(inside, "model").staging_parent == inside
    link = tmp_path / "link"
    link.symlink_to(inside)
    assert plan_target(link, "model").staging_parent == link
    assert plan_target(tmp_path / "new", "model").staging_parent == tmp_path
