"""Verification of real ONNX files in real ONNX Runtime against real modules."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from selector.errors import VerificationError
from selector.inputs import ExampleInputs, InputSpec
from selector.reference import Reference, compute_reference
from selector.structure import unverified_report
from selector.verification import (
    VerificationReport,
    has_dynamic_axes,
    verify_file,
)
from tests.references import Function, X, inputs, reference_of

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
SIGNATURE = "main (float[batch_size, width] x) => (float[batch_size, width] output)"
FIXED = "main (float[2, 5] x) => (float[2, 5] output)"


def tag(graph: onnx.GraphProto, prefix: str = "") -> None:
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}/{node.op_type}_{index}"
        node.metadata_props.add(key="autoexport.module", value="")
        node.metadata_props.add(key="autoexport.call", value="0")
        node.metadata_props.add(key="autoexport.attribution", value="traced")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                tag(attribute.g, f"{node.name}/{attribute.name}")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes ONNX's textual form as a tagged file."""

    def write(text: str, *, tagged: bool = True) -> Path:
        model = parser.parse_model(HEADER + text)
        if tagged:
            tag(model.graph)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def failure(path: Path, reference: Reference, **options: Any) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_file(path, reference, **({"dynamic": True} | options))
    assert caught.value.path == path
    assert caught.value.stage == "verify"
    assert isinstance(caught.value.report, VerificationReport)
    assert not caught.value.report.ok
    return caught.value


# What is right


def test_right_dynamic_file(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Tanh(x) }}")
    report = verify_file(path, reference_of(lambda x: x.tanh()), dynamic=True)
    assert report.ok
    assert report.reason == ""
    assert report.dynamic_axes == {"x": {0: "batch_size", 1: "width"}}
    assert [case.label for case in report.cases] == ["other sizes"]
    assert report.cases[0].sizes == {"batch_size": 3, "width": 7}
    (output,) = report.outputs
    assert (output.name, output.dtype, output.shape) == ("output", "float32", (2, 5))
    assert output.status == "right"
    assert output.max_rel_error is not None
    assert output.max_rel_error < 1e-6
    assert (report.opset, report.nodes, report.untagged) == (18, 1, 0)
    assert report.optimizer_level == "all"
    assert report.latency_seconds is not None
    assert report.seconds >= sum(report.timings.values()) > 0


def test_right_static_file_is_held_to_the_examples_sizes(written: Callable[..., Path]) -> None:
    path = written(f"{FIXED} {{ output = Tanh(x) }}")
    report = verify_file(path, reference_of(lambda x: x.tanh()), dynamic=False)
    assert [case.label for case in report.cases] == ["other values"]
    assert report.dynamic_axes == {}
    assert not has_dynamic_axes(path)


# torch's tracer calls functions of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracer_file_of_a_real_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).eval()
    spec = InputSpec(name="input", axes=("batch_size", 4), dtype="float32", fill="normal")
    reference = compute_reference(module, inputs(spec))
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        module,
        (torch.randn(2, 4),),
        path,
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch_size"}, "output": {0: "batch_size"}},
    )
    model = onnx.load(path)
    tag(model.graph)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert has_dynamic_axes(path)
    assert verify_file(path, reference, dynamic=True).ok


def test_report_survives_pickle_and_json(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    error = failure(path, reference_of(lambda x: x.relu().log()))
    body = error.report.to_json()
    assert json.loads(json.dumps(body, allow_nan=False)) == body
    assert body["outputs"][0]["max_abs_error"] == "Infinity"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert again.report == error.report
    assert again.path == path


def test_metadata_says_what_was_checked(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    report = verify_file(path, reference_of(lambda x: x.relu()), dynamic=True)
    entry = json.loads(report.metadata()["autoexport.verification"])
    assert entry["ok"]
    assert entry["cases"] == ["other sizes"]
    assert entry["outputs"]["output"]["status"] == "right"
    off = unverified_report(path)
    assert (off.level, off.ok, off.nodes) == ("off", False, 1)
    assert json.loads(off.metadata()["autoexport.verification"]) == {"level": "off", "ok": False}


# What is wrong with the numbers


def test_wrong_numbers(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Tanh(x) }}")
    error = failure(path, reference_of(lambda x: x.sigmoid()))
    assert "wrong on the very inputs that the capture saw: output: off by" in str(error)
    assert error.report.outputs[0].status == "wrong"
    assert not error.report.optimizer_fault


def test_user_tolerance(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    reference = reference_of(lambda x: x.relu() * 1.01)
    failure(path, reference)
    assert verify_file(path, reference, dynamic=True, tolerance=0.02).ok


def test_frozen_size_that_still_runs_names_its_axis(written: Callable[..., Path]) -> None:
    text = """main (float[batch_size, width] x) => (float[batch_size, n] output)
        <int64[2] bounds = {0, 5}, int64[1] start = {0}, int64[1] end = {5}, int64[1] axis = {1}>
        { output = Slice(x, start, end, axis) }"""
    error = failure(written(text), reference_of(lambda x: x * 1.0))
    assert "frozen in the file: width" in str(error)
    assert "shape [3, 5] where eager PyTorch gives [3, 7]" in str(error)
    assert error.report.frozen_axes == ("width",)
    assert error.report.cases[0].label == "other sizes"
    assert not error.report.cases[0].ok


def test_frozen_size_that_does_not_run_names_its_axis(written: Callable[..., Path]) -> None:
    text = f"""{SIGNATURE} <float[5] bias = {{0, 0, 0, 0, 0}}>
        {{ output = Add(x, bias) }}"""
    error = failure(written(text), reference_of(lambda x: x * 1.0))
    assert "ONNX Runtime does not run it" in str(error)
    assert error.report.frozen_axes == ("width",)


def test_axis_fixed_in_the_signature(written: Callable[..., Path]) -> None:
    text = "main (float[batch_size, 5] x) => (float[batch_size, 5] output) { output = Relu(x) }"
    error = failure(written(text), reference_of(lambda x: x.relu()))
    assert "axis 1 of x (width) at 5" in str(error)
    assert error.report.frozen_axes == ("width",)


def branching(x: torch.Tensor) -> torch.Tensor:
    return x + 1 if x.sum() > 0 else x - 1


def test_frozen_branch_is_caught_by_other_values(written: Callable[..., Path]) -> None:
    reference = reference_of(branching, value_dependent=True)
    signs = {bool(case.inputs["x"].sum() > 0) for case in reference.cases}
    assert signs == {True, False}
    taken = "Add" if reference.example.inputs["x"].sum() > 0 else "Sub"
    path = written(f"{SIGNATURE} <float one = {{1.0}}> {{ output = {taken}(x, one) }}")
    assert "right on the example, wrong" in str(failure(path, reference))
    kept = f"""{SIGNATURE} <float one = {{1.0}}, float zero = {{0.0}}> {{
        total = ReduceSum<keepdims = 0>(x)
        positive = Greater(total, zero)
        output = If(positive) <
            then_branch = then () => (float[batch_size, width] a) {{ a = Add(x, one) }},
            else_branch = other () => (float[batch_size, width] b) {{ b = Sub(x, one) }}
        >
    }}"""
    report = verify_file(written(kept), reference, dynamic=True)
    assert report.nodes == 5
    assert len(report.cases) > 8


def test_frozen_value_in_a_static_file(written: Callable[..., Path]) -> None:
    reference = reference_of(lambda x: x * 0 + x[0, 0].item())
    value = float(reference.example.inputs["x"][0, 0])
    path = written(
        f"{FIXED} <float z = {{0}}, float v = {{{value}}}> {{ n = Mul(x, z) output = Add(n, v) }}"
    )
    error = failure(path, reference, dynamic=False)
    assert "inputs the capture did not see (other values)" in str(error)


def test_nan_and_infinity_stand_in_the_same_places(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Log(x) }}")
    assert verify_file(path, reference_of(lambda x: x.log()), dynamic=True).ok
    error = failure(path, reference_of(lambda x: x.log().nan_to_num(0.5)))
    assert "NaN or infinity in other places" in str(error)


def test_integers_are_exact(written: Callable[..., Path]) -> None:
    text = """main (float[batch_size, width] x) => (int64[batch_size, width] output)
        <float thousand = {1000}, int64 one = {1}> {
        large = Mul(x, thousand) whole = Cast<to = 7>(large) output = Add(whole, one) }"""
    error = failure(written(text), reference_of(lambda x: (x * 1000).long()))
    assert "10 of 10 values differ" in str(error)


def poisson(x: torch.Tensor) -> torch.Tensor:
    return torch.poisson(x.abs() * 9)


def test_output_that_eager_does_not_reproduce(written: Callable[..., Path]) -> None:
    text = """main (float[batch_size, width] x)
        => (float[batch_size, width] noisy, float[batch_size, width] clean)
        { noisy = Relu(x) clean = Tanh(x) }"""
    path = written(text)
    module = Function(lambda x: {"noisy": poisson(x), "clean": x.tanh()})
    report = verify_file(path, compute_reference(module, inputs()), dynamic=True, module=module)
    noisy, clean = report.outputs
    assert (noisy.status, clean.status) == ("unverifiable", "right")
    assert "does not reproduce" in noisy.reason
    assert noisy.max_abs_error is None


def test_nothing_comparable_is_not_verified(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    module = Function(poisson)
    error = failure(path, compute_reference(module, inputs()), module=module)
    assert "no output can be compared" in str(error)
    path = written(f"{SIGNATURE} <float nan = {{nan}}> {{ output = Add(x, nan) }}")
    error = failure(path, reference_of(lambda x: x * float("nan")))
    assert "no finite value" in str(error)


# Ties of a top-k


def with_top_k(text: str) -> str:
    return f"""main (float[batch_size, width] x)
        => (float[batch_size, 4] scores, int64[batch_size, 4] places)
        <int64[1] k = {{4}}> {{ {text} }}"""


def halves(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The four best of scores of which two always tie, the later one first."""
    pair = torch.cat([x[:, 2:3], x[:, :2], x[:, 2:3]], dim=1)
    scores, places = pair.sort(dim=1, descending=True, stable=True)
    swapped = places.clone()
    swapped[places == 0], swapped[places == 3] = 3, 0
    return {"scores": scores, "places": swapped}


TIED = """
    a = Constant<value_ints = [2]>() b = Constant<value_ints = [0]>()
    c = Constant<value_ints = [1]>() d = Constant<value_ints = [3]>()
    last = Slice(x, a, d, c) first = Slice(x, b, a, c)
    pair = Concat<axis = 1>(last, first, last)
    scores, places = TopK<axis = 1>(pair, k)
"""


def test_ties_may_come_in_any_order(written: Callable[..., Path]) -> None:
    report = verify_file(written(with_top_k(TIED)), reference_of(halves), dynamic=True)
    assert [output.status for output in report.outputs] == ["right", "set-equal"]
    assert report.outputs[1].max_abs_error == 0


def test_an_order_that_is_no_tie_is_wrong(written: Callable[..., Path]) -> None:
    def reversed_places(x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = halves(x)
        return {"scores": found["scores"], "places": found["places"].flip(1)}

    error = failure(written(with_top_k(TIED)), reference_of(reversed_places))
    assert "places: " in str(error)


class Ranks(nn.Module):
    """Weighs the places of the three highest of many scores, most of which tie."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = x.repeat(1, 40).relu().topk(3, dim=-1).indices
        return places * torch.tensor([1.0, 2.0, 3.0])


RANKS = """main (float[batch_size, width] x) => (float[batch_size, 3] output)
    <int64[2] often = {{1, 40}}, int64[1] k = {{3}}, float[3] weights = {{1, 2, {last}}}>
    {{
        tiled = Tile(x, often) scores = Relu(tiled)
        best, places = TopK<axis = -1>(scores, k)
        whole = Cast<to = 1>(places) output = Mul(whole, weights)
    }}"""


def test_ties_that_never_reach_an_output_may_be_broken_as_onnx_has_it(
    written: Callable[..., Path],
) -> None:
    module = Ranks()
    reference = compute_reference(module, inputs(X))
    path = written(RANKS.format(last=3))
    told = str(failure(path, reference))
    assert "off by" in told
    report = verify_file(path, reference, dynamic=True, module=module)
    assert [output.status for output in report.outputs] == ["set-equal"]
    assert report.outputs[0].max_abs_error == 0
    path = written(RANKS.format(last=4))
    assert "off by" in str(failure(path, reference, module=module))


# What is wrong with the file


def test_interface_has_to_be_the_models(written: Callable[..., Path]) -> None:
    reference = reference_of(lambda x: x.relu())
    path = written("main (float[b, w] y) => (float[b, w] output) { output = Relu(y) }")
    assert "the file's inputs are (y) where the model has (x)" in str(failure(path, reference))
    path = written("main (float[b, w] x) => (float[b, w] y) { y = Relu(x) }")
    assert "the file's outputs are (y) where the model has (output)" in str(
        failure(path, reference)
    )
    path = written("main (float[b, w] x) => (double[b, w] output) { output = Cast<to = 11>(x) }")
    assert "output is float64, not float32" in str(failure(path, reference))


def test_untagged_node(written: Callable[..., Path]) -> None:
    reference = reference_of(lambda x: x.relu())
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}", tagged=False)
    error = failure(path, reference)
    assert "1 of 1 nodes without complete hierarchy tags: Relu" in str(error)
    assert error.report.untagged == 1
    assert verify_file(path, reference, dynamic=True, require_tags=False).ok


def test_untagged_node_in_a_branch(written: Callable[..., Path]) -> None:
    text = f"""{SIGNATURE} <bool yes = {{1}}> {{ output = If(yes) <
        then_branch = one () => (float[batch_size, width] a) {{ a = Relu(x) }},
        else_branch = two () => (float[batch_size, width] b) {{ b = Relu(x) }}> }}"""
    path = written(text)
    model = onnx.load(path)
    del model.graph.node[0].attribute[0].g.node[0].metadata_props[:]
    onnx.save(model, path)
    error = failure(path, reference_of(lambda x: x.relu()))
    assert "1 of 3 nodes without complete hierarchy tags" in str(error)


@pytest.mark.parametrize(
    ("key", "value"), [("autoexport.attribution", "guessed"), ("autoexport.call", "first")]
)
def test_invented_tag_values(written: Callable[..., Path], key: str, value: str) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    model = onnx.load(path)
    for entry in model.graph.node[0].metadata_props:
        entry.value = value if entry.key == key else entry.value
    onnx.save(model, path)
    assert "hierarchy tags" in str(failure(path, reference_of(lambda x: x.relu())))


def test_repeated_node_names(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ y = Relu(x) output = Relu(y) }}")
    model = onnx.load(path)
    model.graph.node[1].name = model.graph.node[0].name
    onnx.save(model, path)
    error = failure(path, reference_of(lambda x: x.relu()))
    assert "node names are not unique: /Relu_0" in str(error)


def test_custom_attribute_fails_the_checker(written: Callable[..., Path]) -> None:
    path = written(f'{SIGNATURE} {{ output = Relu<hierarchy_tag = "/a">(x) }}')
    error = failure(path, reference_of(lambda x: x.relu()))
    assert "onnx.checker refuses the file" in str(error)
    assert error.report.checker is not None
    assert "hierarchy_tag" in error.report.checker


def test_truncated_file(written: Callable[..., Path]) -> None:
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    path.write_bytes(path.read_bytes()[:-40])
    assert not has_dynamic_axes(path)
    reference = reference_of(lambda x: x.relu())
    assert "onnx.checker refuses the file" in str(failure(path, reference))
    path.unlink()
    assert "onnx.checker refuses the file" in str(failure(path, reference))


def test_file_that_onnx_runtime_does_not_load(written: Callable[..., Path]) -> None:
    text = """main (double[batch_size, width] x) => (double[batch_size, width] output)
        { output = Mish(x) }"""
    spec = InputSpec(name="x", axes=X.axes, dtype="float64", fill="normal")
    path = written(text)
    model = onnx.load(path)
    model.graph.node[0].domain = "nowhere"
    model.opset_import.add(domain="nowhere", version=1)
    onnx.save(model, path)
    error = failure(path, reference_of(lambda x: x.exp().log1p().tanh() * x, inputs(spec)))
    assert "ONNX Runtime does not load it" in str(error)
    assert error.__cause__ is not None


# ONNX Runtime's optimiser


PADDED_POOL = """main (float[batch_size, 3, 6, 6] x) => (float[batch_size, 3, 3, 3] output)
    <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float zero = {0}> {
    padded = Pad(x, pads, zero)
    output = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(padded) }"""


def test_optimizer_fault_is_told_apart(written: Callable[..., Path]) -> None:
    # ONNX Runtime folds padding by zero into a pool that pads by minus infinity.
    def pool(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)

    axes = ("batch_size", 3, 6, 6)
    spec = InputSpec(name="x", axes=axes, dtype="float32", fill="uniform", low=-5, high=-1)
    recipe = ExampleInputs(specs=(spec,), sizes={"batch_size": 2}, other_sizes={"batch_size": 3})
    error = failure(written(PADDED_POOL), reference_of(pool, recipe))
    assert "right with ONNX Runtime's optimiser off and wrong with it on" in str(error)
    assert "graph_optimization_level is ORT_DISABLE_ALL" in str(error)
    assert error.report.optimizer_fault
    assert error.report.optimizer_level == "off"


# Half precisions


@pytest.mark.parametrize(("dtype", "onnx_type"), [("float16", "float16"), ("bfloat16", "bfloat16")])
def test_half_precisions(written: Callable[..., Path], dtype: str, onnx_type: str) -> None:
    spec = InputSpec(name="x", axes=X.axes, dtype=dtype, fill="normal")
    signature = SIGNATURE.replace("float[", f"{onnx_type}[")
    path = written(f"{signature} {{ output = Identity(x) }}")
    report = verify_file(path, reference_of(lambda x: x.clone(), inputs(spec)), dynamic=True)
    assert report.outputs[0].dtype == dtype
    assert report.outputs[0].max_abs_error == 0
    assert "off by" in str(failure(path, reference_of(lambda x: x * 2, inputs(spec))))


# Without other sizes


def test_unseen_cases_that_eager_refuses_are_left_out_and_named(
    written: Callable[..., Path],
) -> None:
    def picky(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 3:
            msg = "no three"
            raise ValueError(msg)
        return x.relu()

    reference = reference_of(picky)
    assert reference.refused == {"other sizes": "ValueError: no three"}
    path = written(f"{SIGNATURE} {{ output = Relu(x) }}")
    assert "no axis can be shown to be dynamic" in str(failure(path, reference))
    report = verify_file(path, reference, dynamic=False)
    assert report.notes == ("other sizes left out: ValueError: no three",)
