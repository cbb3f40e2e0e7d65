"""Files of modules that draw random numbers, verified with eager PyTorch's draws in real ORT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from selector.doubts import with_draws
from selector.draws import NORMAL, UNIFORM, UnknownDrawError
from selector.errors import VerificationError
from selector.reference import compute_reference
from selector.verification import VerificationReport, verify_file
from strategies import registry
from strategies.base import Candidate
from tests.exporting import request_for
from tests.references import Function, inputs

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
SIGNATURE = "main (float[batch_size, width] x) => (float[batch_size, width] output)"
NOISY = f"{SIGNATURE} {{ drawn = RandomNormalLike(x) output = Add(x, drawn) }}"


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., VerificationReport]:
    """Holds a file, in ONNX's textual form, against a function."""

    def verify(
        text: str, function: Callable[..., Any], *, dynamic: bool = True
    ) -> VerificationReport:
        path = tmp_path / "model.onnx"
        onnx.save(parser.parse_model(HEADER + text), path)
        module = Function(function)
        reference = compute_reference(module, inputs())
        return verify_file(path, reference, dynamic=dynamic, module=module, require_tags=False)

    return verify


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x)


def test_a_file_that_draws_what_forward_draws_is_right(
    verified: Callable[..., VerificationReport], tmp_path: Path
) -> None:
    report = verified(NOISY, noisy)
    assert report.ok
    assert report.outputs[0].status == "right"
    assert "compared on the same random numbers" in report.notes[0]
    assert report.dynamic_axes == {"x": {0: "batch_size", 1: "width"}}
    assert report.latency_seconds is not None
    # What is delivered draws its own.
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds == ["RandomNormalLike", "Add"]


@pytest.mark.parametrize(
    ("text", "function"),
    [
        (
            "low = RandomUniformLike<low = -2.0, high = 2.0>(x) output = Mul(x, low)",
            lambda x: x * torch.empty_like(x).uniform_(-2, 2),
        ),
        (
            "drawn = RandomNormalLike<mean = 3.0, scale = 2.0>(x) output = Mul(x, drawn)",
            lambda x: x * torch.empty_like(x).normal_(3, 2),
        ),
        (
            (
                "width = Abs(x) drawn = RandomNormalLike(x) wide = Mul(drawn, width)"
                " output = Add(wide, x)"
            ),
            lambda x: torch.normal(x, x.abs()),
        ),
        (
            "chances = Sigmoid(x) output = Bernoulli(chances)",
            lambda x: torch.bernoulli(x.sigmoid()),
        ),
        (
            (
                "chances = Sigmoid(x) drawn = RandomUniformLike(x) kept = Less(drawn, chances)"
                " output = CastLike(kept, x)"
            ),
            lambda x: torch.bernoulli(x.sigmoid()),
        ),
        (
            (
                "drawn = RandomUniformLike(x) logs = Log(drawn) times = Neg(logs)"
                " output = Add(x, times)"
            ),
            lambda x: x + torch.empty_like(x).exponential_(),
        ),
    ],
)
def test_what_is_drawn(
    verified: Callable[..., VerificationReport], text: str, function: Callable[..., Any]
) -> None:
    assert verified(f"{SIGNATURE} {{ {text} }}", function).ok


def refused(verify: Callable[..., VerificationReport], *given: Any, **options: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(*given, **options)
    return str(caught.value)


def test_frozen_numbers_are_wrong(verified: Callable[..., VerificationReport]) -> None:
    torch.manual_seed(0)
    # What the example's own run draws.
    numbers = ", ".join(str(number) for number in torch.randn(2, 5).flatten().tolist())
    frozen = f"""main (float[2, 5] x) => (float[2, 5] output)
        <float[2, 5] drawn = {{{numbers}}}> {{ output = Add(x, drawn) }}"""
    error = refused(verified, frozen, noisy, dynamic=False)
    assert "random numbers: 1 in forward, none in the file, where they are constants" in error


def test_another_number_of_draws_is_wrong(verified: Callable[..., VerificationReport]) -> None:
    error = refused(verified, NOISY, lambda x: noisy(x) + torch.randn_like(x) + torch.rand(()))
    assert "random numbers: 3 in forward, 1 in the file" in error
    text = f"{SIGNATURE} {{ a = RandomNormalLike(x) b = Add(x, a) c = RandomNormalLike(x)"
    error = refused(verified, f"{text} output = Add(b, c) }}", noisy)
    assert "random numbers: 1 in forward, 2 in the file" in error


def test_other_shapes_and_kinds_are_wrong(verified: Callable[..., VerificationReport]) -> None:
    error = refused(verified, NOISY, lambda x: x + torch.randn(x.shape[0], 1))
    assert "draw 0 has the shape (2, 1) in forward, (2, 5) in the file" in error
    error = refused(verified, NOISY, lambda x: x + torch.rand_like(x))
    assert "draw 0 is evenly distributed in forward, RandomNormalLike here" in error
    fixed = f"{SIGNATURE} {{ drawn = RandomNormal<shape = [2, 5]>() output = Add(x, drawn) }}"
    error = refused(verified, fixed, noisy)
    assert "draw 0 has the shape (3, 7) in forward, (2, 5) in the file" in error
    assert verified(fixed, noisy, dynamic=False).ok


def test_what_is_made_of_the_numbers_has_to_be_right(
    verified: Callable[..., VerificationReport],
) -> None:
    error = refused(verified, NOISY, lambda x: x - torch.randn_like(x))
    assert "values beyond the tolerance" in error
    text = f"{SIGNATURE} <float even = {{0.5}}> {{ chances = Sigmoid(x) shape = Shape(x)"
    text += " frozen = Expand(even, shape) output = Bernoulli(frozen) }"
    error = refused(verified, text, lambda x: torch.bernoulli(x.sigmoid()))
    assert "values beyond the tolerance" in error


def test_what_is_drawn_in_a_branch_cannot_be_compared(
    verified: Callable[..., VerificationReport],
) -> None:
    text = f"""{SIGNATURE} <bool yes = {{1}}> {{
        drawn = If (yes) <
            then_branch = then () => (float[batch_size, width] a) {{ a = RandomNormalLike(x) }},
            else_branch = other () => (float[batch_size, width] b) {{ b = Identity(x) }}>
        output = Add(x, drawn) }}"""
    assert "in a loop or a branch" in refused(verified, text, noisy)


def test_external_data_stay_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = f"""{SIGNATURE} {{
        drawn = RandomNormalLike(x) near = Add(x, drawn) output = Mul(near, weight) }}"""
    model = parser.parse_model(HEADER + text)
    weight = torch.arange(5000.0).reshape(1000, 5)[-1]
    model.graph.initializer.append(numpy_helper.from_array(weight.numpy(), "weight"))
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=0)
    module = Function(lambda x: noisy(x) * weight)
    recipe = inputs()
    reference = compute_reference(module, recipe)
    report = verify_file(path, reference, dynamic=False, module=module, require_tags=False)
    assert report.ok


class Shuffling(nn.Module):
    """Draws choices, orders and times, and numbers as many as its input has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[torch.randperm(x.shape[0])]
        chosen = torch.multinomial(x.softmax(-1), 3)
        several = torch.multinomial(x.softmax(-1), 4, replacement=True)
        times = torch.empty_like(x).exponential_(2.0)
        noise = torch.randn((x.shape[0], 1), generator=None)
        noise = noise + x[torch.randint(x.shape[0], (x.shape[0],))]
        noise = noise * torch.randint(-2, high=3, size=(x.shape[1],), dtype=torch.int32)
        noise = noise - torch.randint(2, x.shape[0] + 2, tuple(x.shape))
        return x * times + x.gather(-1, chosen).sum() + x.gather(-1, several).sum() + noise


@pytest.mark.parametrize("strategy", registry.names())
# torch's tracer calls functions of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_strategies_keep_what_is_drawn(strategy: str, tmp_path: Path) -> None:
    module = Shuffling()
    reference = compute_reference(module, inputs())
    request = request_for(
        module,
        inputs().make(),
        Candidate(strategy=strategy),
        tmp_path,
        axes=reference.dynamic_axes,
        output_axes=reference.output_axes,
    )
    path = registry.resolve(strategy)(request).path
    report = verify_file(path, reference, dynamic=True, module=module)
    assert "compared on the same random numbers" in report.notes[0]


def test_draws_are_noted_in_order() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        chosen = torch.multinomial(torch.ones(9), 3)
        several = torch.multinomial(torch.ones(2, 4), 5, replacement=True)
        order = torch.randperm(7)
        whole = torch.randint(3, 6, (8,))
        assert sorted(order.tolist()) == list(range(7))
        assert len(set(chosen.tolist())) == 3
        assert set(whole.tolist()) <= {3, 4, 5}
        return x + torch.randn(1) + chosen.sum() + several.sum() + order[0] + whole[0]

    module = Function(forward)
    reference = compute_reference(module, inputs())
    drawn = with_draws(module, reference, reference.example)
    assert drawn is not None
    assert [draw.values.shape for draw in drawn.draws] == [(9,), (2, 5, 4), (7,), (8,), (1,)]
    assert [draw.kind for draw in drawn.draws] == [UNIFORM] * 4 + [NORMAL]
    calm = Function(lambda x: nn.functional.scaled_dot_product_attention(x, x, x))
    reference = compute_reference(calm, inputs())
    assert with_draws(calm, reference, reference.example) is None
    odd = Function(lambda x: torch.poisson(x.abs()))
    with pytest.raises(UnknownDrawError, match="poisson"):
        with_draws(odd, compute_reference(odd, inputs()), reference.example)
