"""Inputs that depend on one another, found by what forward says, documents and complains of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from scripts import zoo
from selector.complaints import Complaint, complaints
from selector.eager import Eager, Weights
from selector.errors import InvalidRequestError
from selector.inputs import ExampleInputs, make_inputs
from strategies.calling import NamedCall

Made = tuple[Any, ExampleInputs]

# A fixed size that the tiny model decides.
WIDTH = None
# What each takes beside the rows of text, and the axes of all its inputs that vary.
COUPLED: dict[str, tuple[dict[str, tuple[int | str | None, ...]], set[str]]] = {
    "qwen3_vl": (
        {"pixel_values": ("total_patches", WIDTH), "image_grid_thw": ("batch_size", 3)},
        {"batch_size", "sequence_length", "total_patches"},
    ),
    "minicpmv4_7_vision": (
        {"pixel_values": (1, 3, WIDTH, "strip_width"), "target_sizes": ("num_images", 2)},
        {"num_images", "strip_width"},
    ),
    "siglip2_vision_model": (
        {
            "pixel_values": ("num_images", "num_patches", WIDTH),
            "spatial_shapes": ("num_images", 2),
            "pixel_attention_mask": ("num_images", "num_patches"),
        },
        {"num_images", "num_patches"},
    ),
    "gemma4_vision": (
        {
            "pixel_values": ("num_images", "num_patches", WIDTH),
            "pixel_position_ids": ("num_images", "num_patches", 2),
        },
        {"num_images", "num_patches"},
    ),
    "llava": ({"pixel_values": ("batch_size", 3, "height", "width")}, {"batch_size"}),
    "idefics2": ({"pixel_values": ("batch_size", "num_images", 3, "height", "width")}, set()),
    "idefics": ({"image_attention_mask": ("batch_size", "sequence_length", "num_images")}, set()),
    "kosmos-2": ({"image_embeds_position_mask": ("batch_size", "sequence_length")}, set()),
    "qwen2_audio": (
        {
            "input_features": ("batch_size", 128, "feature_length"),
            "feature_attention_mask": ("batch_size", "feature_length"),
        },
        {"batch_size", "sequence_length"},
    ),
    "lighton_ocr": ({"image_sizes": ("batch_size", 2)}, {"batch_size", "sequence_length"}),
    "dia": ({"decoder_input_ids": ("batch_size", "decoder_sequence_length", 9)}, set()),
    "fun_asr_nano_encoder": ({"input_features": ("batch_size", "feature_length", 560)}, set()),
    "efficientloftr": (
        {"pixel_values": ("batch_size", 2, 3, "height", "width")},
        {"batch_size", "height", "width"},
    ),
    "llava_next": ({"image_sizes": ("batch_size", 2)}, {"batch_size", "sequence_length"}),
    "xmod": ({"lang_ids": ("batch_size", "sequence_length")}, set()),
}


@pytest.fixture(scope="module")
def made() -> Callable[[str], Made]:
    """Builds each model, and makes its inputs, once."""

    @cache
    def build(name: str) -> Made:
        module: Any = zoo.build(f"base:{name}")
        return module, make_inputs(module, module.config)

    return build


def run(module: nn.Module, inputs: ExampleInputs, **case: Any) -> tuple[torch.Tensor, ...]:
    tensors = inputs.make(**case)
    with torch.no_grad():
        return NamedCall(module, tuple(tensors), inputs.constants).forward(*tensors.values())


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_inputs_are_found(made: Callable[[str], Made], name: str) -> None:
    module, inputs = made(name)
    axes = {spec.name: spec.axes for spec in inputs.specs}
    expected, varying = COUPLED[name]
    for key, wanted in expected.items():
        assert len(axes[key]) == len(wanted)
        for axis, size in zip(axes[key], wanted, strict=True):
            assert isinstance(axis, int) if size is WIDTH else axis == size
    assert set(inputs.other_sizes) >= varying
    assert inputs.notes == ()
    assert run(module, inputs, seed=3)
    assert run(module, inputs, seed=4, sizes=inputs.other_sizes, style="unpadded")


def test_grids_make_up_all_patches(made: Callable[[str], Made]) -> None:
    _, inputs = made("qwen3_vl")
    grids = []
    for sizes in (inputs.sizes, inputs.other_sizes):
        case = inputs.make(sizes=sizes)
        grid = case["image_grid_thw"]
        assert int(grid.prod(-1).sum()) == len(case["pixel_values"])
        assert (grid[:, 1:] % 2 == 0).all()
        grids.append(grid[0].tolist())
    assert grids[0] != grids[1]


def test_ids_hold_a_placeholder_for_every_block_of_patches(made: Callable[[str], Made]) -> None:
    module, inputs = made("qwen3_vl")
    for sizes in (inputs.sizes, inputs.other_sizes):
        case = inputs.make(sizes=sizes)
        placed = (case["input_ids"] == module.config.image_token_id).sum(-1)
        assert (placed == case["image_grid_thw"].prod(-1) // 4).all()


def test_positions_are_an_input_where_forward_counts_them_in_python(
    made: Callable[[str], Made],
) -> None:
    _, inputs = made("qwen3_vl")
    assert "mm_token_type_ids" not in inputs.names
    positions = inputs.make(seed=1)["position_ids"]
    assert (positions.diff(dim=-1) == 1).all()


class Tolerant(nn.Module):
    """Puts what it sees of images where the ids have a place for it, if any has."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 3)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        embedded: torch.Tensor = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        if pixel_values is None:
            return embedded
        seen = pixel_values.flatten(2).transpose(1, 2)
        return embedded.masked_scatter((input_ids == 7).unsqueeze(-1), seen)


def test_a_placeholder_that_nobody_counts_is_placed_all_the_same() -> None:
    config: Any = PretrainedConfig()
    config.vocab_size, config.image_token_id = 50, 7
    inputs = make_inputs(Tolerant().eval(), config)
    assert "pixel_values" in inputs.names
    assert (inputs.make(seed=1)["input_ids"] == 7).any(-1).all()
    assert set(inputs.other_sizes) == {"batch_size", "sequence_length", "height", "width"}


def test_rows_are_as_many_as_the_model_can_take() -> None:
    codes: Any = zoo.build("base:musicgen")
    inputs = make_inputs(codes, codes.config)
    assert inputs.sizes["batch_size"] % codes.config.num_codebooks == 0
    assert inputs.other_sizes["batch_size"] % codes.config.num_codebooks == 0
    classifier: Any = zoo.build("head:GPT2ForSequenceClassification")
    assert "batch_size" in make_inputs(classifier, classifier.config).other_sizes
    classifier.config.pad_token_id = None
    alone = make_inputs(classifier, classifier.config)
    assert alone.sizes["batch_size"] == 1
    assert list(alone.other_sizes) == ["sequence_length"]
    video: Any = zoo.build("base:tvp")
    assert make_inputs(video, video.config).sizes["batch_size"] == 1


def test_a_constant_that_forward_binds_itself_is_left_out() -> None:
    module: Any = zoo.build("head:T5GemmaForSequenceClassification")
    assert "use_cache" not in make_inputs(module, module.config).constants


def test_what_a_config_lacks_is_made_up_for_by_passing_the_result() -> None:
    module: Any = zoo.build("base:qwen3_omni_moe_thinker")
    assert not hasattr(module.config, "vision_start_token_id")
    inputs = make_inputs(module, module.config)
    assert "position_ids" in inputs.names
    assert not {"video_grid_thw", "video_second_per_grid"} & set(inputs.names)


class OnePerRow(nn.Module):
    """Returns the rows as so many tensors."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list((2 * x).unbind(0))


def test_an_axis_that_says_how_many_outputs_there_are_does_not_vary() -> None:
    inputs = make_inputs(OnePerRow(), None, given=torch.randn(2, 5))
    assert inputs.dynamic_axes == {"x": {1: "x_dim_1"}}


def test_a_module_without_forward_is_refused_with_its_parts() -> None:
    module = nn.Module()
    module.first = nn.Linear(2, 2)
    with pytest.raises(InvalidRequestError, match=r"Module has no forward; .* instead: first"):
        make_inputs(module, None)


class Recording(nn.Module):
    """Hooks itself up in its first forward, as transformers does to record hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.hooked = False
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        if not self.hooked:
            self.inner.register_forward_hook(lambda _, __, output: self.seen.append(output))
            self.hooked = True
        self.seen = seen
        self.inner(x)
        return seen


def test_a_probe_without_weights_takes_back_the_hooks_of_forward() -> None:
    module = Recording().eval()
    inputs = make_inputs(module, None, given=torch.randn(2, 3), eager=Eager(module))
    eager = Eager(Recording().eval(), weights=Weights.NEVER)
    assert eager.refusal(inputs) is None
    assert eager.guessed
    (_, _, alone), *others = eager.answer(inputs.make(), {}, seed=0).outputs
    assert alone.shape == (2, 3)
    assert not others


def refused(call: Callable[[], object]) -> BaseException:
    with pytest.raises((RuntimeError, ValueError, IndexError)) as caught:
        call()
    return caught.value


X = torch.randn(2, 6, 10)
SHAPES = {"x": (2, 6, 10), "mask": (2, 5)}


def unpack(x: torch.Tensor) -> int:
    batch, channels, height, width = x.shape
    return int(batch * channels * height * width)


def swap(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 3)


def insist(x: torch.Tensor) -> None:
    msg = f"Input must be of shape (batch_size, 2, height, width), not {x.shape}"
    raise ValueError(msg)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: unpack(X), Complaint(name="x", rank=4)),
        (lambda: swap(X), Complaint(name="x", rank=4)),
        (lambda: nn.Conv2d(6, 1, 1)(X[None, None]), None),
        (lambda: nn.Conv1d(10, 1, 1)(X), Complaint(name="x", rank=3, sizes={1: 10})),
        (lambda: nn.LayerNorm(6)(X), Complaint(name="x", rank=3, sizes={-1: 6})),
        (lambda: nn.Linear(6, 1)(X), Complaint(name="x", sizes={-1: 6})),
        (lambda: (X + 1).view(-1, 4, 4), Complaint(name="x", rank=2, sizes={-1: 16})),
        (lambda: X[torch.ones(2, 5, dtype=torch.bool)], Complaint(name="x", like="mask")),
        (lambda: nn.Linear(6, 6)(torch.randn(2, 7)), None),
    ],
)
def test_errors_say_what_an_input_should_have_been(
    call: Callable[[], object], expected: Complaint | None
) -> None:
    assert next(complaints(refused(call), SHAPES), None) == expected


def test_errors_that_write_out_a_shape() -> None:
    (found,) = complaints(refused(lambda: insist(X)), SHAPES)
    assert found.rank == 4
    assert found.shape is not None
    assert found.shape.symbols == ("batch_size", "2", "height", "width")
