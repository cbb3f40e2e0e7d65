"""The structure check: every tensor's bytes have to be there, and none of them is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from selector.structure import read_checked

WIDTH = 40


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A file whose one weight lies beside it."""
    weight = np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)
    model = model_with(numpy_helper.from_array(weight, "weight"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def model_with(*weights: onnx.TensorProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["output"])],
        "main",
        [value("x", TensorProto.FLOAT, ["n", WIDTH])],
        [value("output", TensorProto.FLOAT, ["n", WIDTH])],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def fault_after(path: Path, **entries: str) -> str | None:
    """What is objected to once the weight's place is another."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return read_checked(path)[1]


def test_external_weights_are_right(external: Path) -> None:
    facts, fault = read_checked(external)
    assert fault is None
    assert facts is not None
    assert facts.nodes == 1


def test_hard_linked_weights_are_right(external: Path) -> None:
    os.link(external.with_name("weights.bin"), external.with_name("other"))
    with pytest.raises(Exception, match="hardlink"):
        onnx.checker.check_model(str(external))
    assert read_checked(external)[1] is None


def test_weights_that_are_cut_off(external: Path) -> None:
    data = external.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:-1])
    fault = read_checked(external)[1]
    assert fault == "initializer weight: bytes 0 to 6400 of weights.bin, which has 6399"


def test_weights_that_are_missing(external: Path) -> None:
    external.with_name("weights.bin").unlink()
    assert "no regular file beside the model" in str(read_checked(external)[1])


@pytest.mark.parametrize("location", ["", "../weights.bin", "/weights.bin"])
def test_weights_that_are_elsewhere(external: Path, location: str) -> None:
    fault = fault_after(external, location=location)
    assert "which is not a file beside the model" in str(fault)


def test_symbolic_links_are_refused(external: Path) -> None:
    data = external.with_name("weights.bin")
    data.rename(external.with_name("other"))
    data.symlink_to(external.with_name("other"))
    assert "no regular file" in str(read_checked(external)[1])


def test_length_has_to_be_that_of_the_shape(external: Path) -> None:
    fault = fault_after(external, length="6396")
    assert fault == "initializer weight: 6396 bytes of weights.bin where its shape needs 6400"


def test_place_has_to_be_a_number(external: Path) -> None:
    assert "its place in weights.bin is no number" in str(fault_after(external, offset="first"))


def test_embedded_bytes_have_to_be_those_of_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weight = numpy_helper.from_array(np.ones((WIDTH, WIDTH), dtype=np.float32), "weight")
    onnx.save(model_with(weight), path)
    assert read_checked(path)[1] is None
    weight.dims[0] += 1
    path.write_bytes(model_with(weight).SerializeToString())
    assert read_checked(path)[1] == "initializer weight: 6400 bytes where its shape needs 6560"


def test_packed_elements(tmp_path: Path) -> None:
    weight = onnx.TensorProto(
        name="weight", data_type=TensorProto.INT4, dims=[3, 701], raw_data=bytes(1052)
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with(weight).SerializeToString())
    assert read_checked(path)[1] is None
