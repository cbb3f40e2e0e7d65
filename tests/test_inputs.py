"""Inputs for every tiny model run eager, at both sizes, and hold what they promise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from scripts.plain_modules import PLAIN
from scripts.zoo import TINY, build, tiny_config, tiny_model
from selector.errors import InvalidRequestError
from selector.inputs import (
    STYLES,
    ExampleInputs,
    InputSpec,
    ShapeDtype,
    load_npz,
    make_inputs,
    parse_input_option,
)
from strategies.calling import NamedCall

SIMPLE = ("mlp", "cnn", "lstm", "branch", "loop", "dict_output", "shared")

# Any, because a module's `config` is no tensor and no module, which is all that mypy allows.
Made = tuple[Any, ExampleInputs]


@pytest.fixture(scope="session")
def made() -> Callable[[str], Made]:
    """Builds each model, and makes its inputs, once."""

    @cache
    def build(name: str) -> Made:
        if name in PLAIN:
            plain, given = PLAIN[name]()
            return plain, make_inputs(plain, None, given=given)
        module: Any = tiny_model(name)
        return module, make_inputs(module, module.config)

    return build


def run(module: nn.Module, inputs: ExampleInputs, **case: Any) -> tuple[torch.Tensor, ...]:
    tensors = inputs.make(**case)
    with torch.no_grad():
        return NamedCall(module, tuple(tensors), inputs.constants).forward(*tensors.values())


@pytest.mark.parametrize("name", [*TINY, *SIMPLE])
def test_both_sizes_run_eager(made: Callable[[str], Made], name: str) -> None:
    module, inputs = made(name)
    assert run(module, inputs)
    assert run(module, inputs, seed=5, sizes=inputs.other_sizes, style="unpadded")


@pytest.mark.parametrize("name", [*TINY, *SIMPLE])
def test_the_batch_varies(made: Callable[[str], Made], name: str) -> None:
    _, inputs = made(name)
    assert "batch_size" in inputs.other_sizes
    assert inputs.dynamic_axes[inputs.names[0]][0] in ("batch_size", "image_batch_size")


@pytest.mark.parametrize("name", TINY)
def test_made_up_sizes_are_distinct(made: Callable[[str], Made], name: str) -> None:
    _, inputs = made(name)
    varying = [inputs.sizes[axis] for axis in inputs.other_sizes]
    assert min(varying) >= 2
    assert len(set(varying)) == len(varying)
    assert len(set(inputs.other_sizes.values())) == len(inputs.other_sizes)
    assert all(inputs.sizes[axis] != size for axis, size in inputs.other_sizes.items())


@pytest.mark.parametrize("name", [*TINY, *SIMPLE])
def test_shapes_are_what_the_specs_say(made: Callable[[str], Made], name: str) -> None:
    _, inputs = made(name)
    sizes = {**inputs.sizes, **inputs.other_sizes}
    tensors = inputs.make(seed=1, sizes=sizes)
    for spec in inputs.specs:
        wanted = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes]
        assert list(tensors[spec.name].shape) == wanted
        assert str(tensors[spec.name].dtype) == f"torch.{spec.dtype}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", ["input_ids", "attention_mask", "token_type_ids"]),
        ("llama", ["input_ids", "attention_mask"]),
        ("t5", ["input_ids", "attention_mask", "decoder_input_ids"]),
        ("clip", ["input_ids", "pixel_values", "attention_mask"]),
        ("gemma3", ["input_ids", "pixel_values", "attention_mask"]),
        ("sam", ["pixel_values", "input_points", "input_labels"]),
        (
            "layoutlmv3",
            ["input_ids", "bbox", "attention_mask", "token_type_ids", "pixel_values"],
        ),
        ("whisper", ["input_features", "decoder_input_ids"]),
        ("wav2vec2", ["input_values"]),
        ("speecht5", ["input_values", "decoder_input_values"]),
        ("patchtsmixer", ["past_values"]),
        ("detr", ["pixel_values"]),
        ("perceiver", ["inputs"]),
    ],
)
def test_expected_inputs(made: Callable[[str], Made], name: str, expected: list[str]) -> None:
    _, inputs = made(name)
    assert sorted(inputs.names) == sorted(expected)
    assert inputs.notes == ()


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("bert", {"batch_size", "sequence_length"}),
        ("t5", {"batch_size", "sequence_length", "decoder_sequence_length"}),
        ("resnet", {"batch_size", "height", "width"}),
        ("vit", {"batch_size"}),
        ("clip", {"batch_size", "sequence_length", "image_batch_size"}),
        ("sam", {"batch_size", "point_batch_size", "num_points"}),
        ("patchtsmixer", {"batch_size"}),
        ("whisper", {"batch_size", "decoder_sequence_length"}),
        ("wav2vec2", {"batch_size", "audio_length"}),
        ("cnn", {"batch_size", "height", "width"}),
        ("lstm", {"batch_size", "sequence_dim_1"}),
        ("mlp", {"batch_size"}),
    ],
)
def test_axes_that_vary(made: Callable[[str], Made], name: str, axes: set[str]) -> None:
    _, inputs = made(name)
    assert set(inputs.other_sizes) == axes


def test_the_cache_is_off(made: Callable[[str], Made]) -> None:
    for name in ("llama", "t5", "bert"):
        assert made(name)[1].constants["use_cache"] is False


def test_ids_and_mask_agree(made: Callable[[str], Made]) -> None:
    module, inputs = made("bart")
    tensors = inputs.make(seed=3)
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    config = module.config
    assert mask[0].all()
    assert not mask[-1].all()
    assert mask.any(dim=1).all()
    assert (mask.diff(dim=1) <= 0).all()
    assert (ids[mask == 0] == config.pad_token_id).all()
    assert (ids[mask == 1] != config.pad_token_id).all()
    assert (ids == config.eos_token_id).sum(dim=1).tolist() == [1, 1]
    assert ids.min() >= 0
    assert ids.max() < config.vocab_size


def test_unpadded_style_masks_nothing(made: Callable[[str], Made]) -> None:
    _, inputs = made("bert")
    assert inputs.make(style="unpadded")["attention_mask"].all()


def test_layout_boxes_are_boxes(made: Callable[[str], Made]) -> None:
    _, inputs = made("layoutlmv3")
    box = inputs.make(seed=2)["bbox"]
    assert (box[..., 0] <= box[..., 2]).all()
    assert (box[..., 1] <= box[..., 3]).all()
    assert box.min() >= 0
    assert box.max() <= 1000


def test_image_tokens_fill_the_rows_as_the_model_wants(made: Callable[[str], Made]) -> None:
    module, inputs = made("gemma3")
    config = module.config
    for seed, sizes in ((1, inputs.sizes), (2, inputs.other_sizes)):
        ids = inputs.make(seed=seed, sizes=sizes)["input_ids"]
        counts = (ids == config.image_token_index).sum(dim=1)
        assert set(counts.tolist()) == {config.mm_tokens_per_image}


def test_the_same_seed_gives_the_same_values(made: Callable[[str], Made]) -> None:
    _, inputs = made("bert")
    first, again, other = inputs.make(seed=4), inputs.make(seed=4), inputs.make(seed=5)
    assert all(torch.equal(first[name], again[name]) for name in inputs.names)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_styles_drive_a_branch_both_ways(made: Callable[[str], Made]) -> None:
    _, inputs = made("branch")
    sums = {style: float(inputs.make(seed=1, style=style)["x"].sum()) for style in STYLES}
    assert sums["positive"] > 0 > sums["negative"]
    assert abs(sums["large"]) > abs(sums["small"])


def test_loop_counts_vary(made: Callable[[str], Made]) -> None:
    _, inputs = made("loop")
    counts = [
        int(inputs.make(seed=seed, style=style)["n"])
        for seed in range(1, 6)
        for style in ("example", "large", "small")
    ]
    assert int(inputs.make()["n"]) == 3
    assert min(counts) >= 0
    assert len(set(counts)) > 2


def test_inputs_survive_pickling(made: Callable[[str], Made]) -> None:
    for name in ("sam", "loop"):
        inputs = made(name)[1]
        again = pickle.loads(pickle.dumps(inputs))  # noqa: S301 - our own bytes, made on this line
        for key, tensor in inputs.make(seed=2).items():
            assert torch.equal(again.make(seed=2)[key], tensor)


def test_an_unknown_style_is_refused(made: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="unknown style 'huge'; known: example"):
        made("bert")[1].make(style="huge")


def test_static_inputs_run_once_and_vary_nowhere(made: Callable[[str], Made]) -> None:
    module, _ = made("bert")
    inputs = make_inputs(module, module.config, dynamic=False)
    assert inputs.other_sizes == {}
    assert inputs.dynamic_axes == {}


def test_processor_names_choose(made: Callable[[str], Made]) -> None:
    module, _ = made("gpt2")
    names = ("input_ids", "token_type_ids", "attention_mask")
    with_types = make_inputs(module, module.config, processor_names=names, dynamic=False)
    assert set(with_types.names) == set(names)
    without_mask = make_inputs(module, module.config, processor_names=("input_ids",), dynamic=False)
    assert without_mask.names == ("input_ids",)


def _headed(name: str, head: str) -> Any:
    return getattr(transformers, head)(tiny_config(name)).eval()


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("bert", "BertForMultipleChoice", {"input_ids": (2, 3, 11)}),
        ("bart", "BartForSequenceClassification", {"input_ids": (2, 11)}),
        ("blip", "BlipForConditionalGeneration", {"pixel_values": (2, 3, 32, 32)}),
        ("speecht5", "SpeechT5ForTextToSpeech", {"decoder_input_values": (2, 6, 20)}),
        ("perceiver", "PerceiverForImageClassificationLearned", {"inputs": (2, 3, 56, 56)}),
        ("longformer", "LongformerForQuestionAnswering", {"global_attention_mask": (2, 11)}),
    ],
)
def test_heads_with_wishes_of_their_own(
    name: str, head: str, expected: dict[str, tuple[int, ...]]
) -> None:
    module = _headed(name, head)
    tensors = make_inputs(module, module.config, dynamic=False).make()
    assert {key: tuple(tensors[key].shape) for key in expected} == expected


def test_what_had_to_be_left_out_is_noted() -> None:
    module = _headed("bart", "BartForSequenceClassification")
    inputs = make_inputs(module, module.config, dynamic=False)
    assert "decoder_input_ids" not in inputs.names
    assert inputs.notes[0].startswith("input decoder_input_ids left out")


def test_a_text_task_leaves_images_out(made: Callable[[str], Made]) -> None:
    module, _ = made("gemma3")
    inputs = make_inputs(module, module.config, task="text-generation", dynamic=False)
    assert "pixel_values" not in inputs.names


def test_given_tensors_are_used_as_they_are(made: Callable[[str], Made]) -> None:
    module, _ = made("bert")
    ids = torch.randint(10, 90, (4, 9))
    inputs = make_inputs(module, module.config, given={"input_ids": ids})
    assert inputs.sizes == {"batch_size": 4, "sequence_length": 9}
    assert torch.equal(inputs.make()["input_ids"], ids)
    assert inputs.make()["attention_mask"].shape == (4, 9)
    assert not torch.equal(inputs.make(seed=1)["input_ids"], ids)
    assert set(inputs.other_sizes) == {"batch_size", "sequence_length"}


def test_given_shapes_are_filled_by_the_rule_of_the_name(made: Callable[[str], Made]) -> None:
    module, _ = made("bert")
    inputs = make_inputs(module, module.config, given={"input_ids": ShapeDtype((3, 8), "int32")})
    ids = inputs.make()["input_ids"]
    assert ids.shape == (3, 8)
    assert ids.dtype is torch.int32
    assert ids.max() < 99


def test_an_axis_of_one_that_may_vary_becomes_the_second_size() -> None:
    x = torch.randn(1, 8)
    module, _ = PLAIN["mlp"]()
    inputs = make_inputs(module, None, given=x)
    assert inputs.sizes["batch_size"] > 1
    assert inputs.other_sizes == {"batch_size": 1}
    assert torch.equal(inputs.make()["x"][:1], x)
    assert torch.equal(inputs.make(sizes={"batch_size": 1})["x"], x)


def test_arrays_and_positions_and_scalars_can_be_given() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return (x + y) * scale

    array = np.ones((2, 3), dtype=np.float32)
    inputs = make_inputs(Scaled(), None, given={"x": array, "y": array, "scale": 2.0})
    assert inputs.constants == {"scale": 2.0}
    assert run(Scaled(), inputs)[0].tolist() == [[4.0] * 3] * 2
    assert make_inputs(Scaled(), None, given=(array, array)).names == ("x", "y")


def test_attention_to_as_many_keys_as_values() -> None:
    class Attends(nn.Module):
        def forward(
            self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
        ) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(query, key, value=value)

    given = {name: torch.randn(2, 4, 7, 8) for name in ("query", "key", "value")}
    inputs = make_inputs(Attends(), None, given=given)
    axes = {spec.name: spec.axes for spec in inputs.specs}
    assert axes["key"][2] == axes["value"][2] == "key_dim_2"
    assert "key_dim_2" in inputs.other_sizes


def test_axes_that_must_be_equal_become_one() -> None:
    class Product(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left * right

    inputs = make_inputs(
        Product(), None, given={"left": torch.randn(2, 5), "right": torch.randn(2, 5)}
    )
    assert inputs.dynamic_axes == {
        "left": {0: "batch_size", 1: "left_dim_1"},
        "right": {0: "batch_size", 1: "left_dim_1"},
    }


def test_ids_with_a_structure_are_not_redrawn(made: Callable[[str], Made]) -> None:
    module, inputs = made("gemma3")
    case = inputs.make(sizes={"batch_size": 2})
    given = {name: case[name] for name in ("input_ids", "pixel_values", "attention_mask")}
    again = make_inputs(module, module.config, given=given)
    assert torch.equal(again.make(seed=9)["input_ids"], case["input_ids"])
    assert not torch.equal(again.make(seed=9)["pixel_values"], case["pixel_values"])


def test_none_leaves_an_input_out(made: Callable[[str], Made]) -> None:
    module, _ = made("bert")
    inputs = make_inputs(module, module.config, given={"token_type_ids": None}, dynamic=False)
    assert inputs.names == ("input_ids", "attention_mask")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_id": torch.ones(2, 3)}, "unknown input 'input_id'; did you mean 'input_ids'"),
        ({"input_ids": [torch.ones(2)]}, "'input_ids' is a list; nested inputs are not supported"),
        ({"input_ids": object()}, "'input_ids' is a object; pass a torch.Tensor"),
        ({"input_ids": torch.ones(2, 3)}, "refused the given inputs .*float32 2x3"),
        ({"input_ids": torch.full((2, 3), 99)}, "refused the given inputs .*int64 2x3"),
        ({"input_ids": torch.ones(2, 8, 4).long()}, "refused the given inputs .*int64 2x8x4"),
        ({"input_ids": ShapeDtype((2, 3), "int65")}, "unknown dtype 'int65'"),
        ({"input_ids": np.array(["a"])}, "which torch has no tensor for"),
        ([torch.ones(2)] * 12, "12 inputs given"),
    ],
)
def test_given_inputs_that_do_not_fit(
    made: Callable[[str], Made], given: object, message: str
) -> None:
    module, _ = made("bert")
    with pytest.raises(InvalidRequestError, match=message) as caught:
        make_inputs(module, module.config, given=given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_plain_module_without_inputs_says_how_to_pass_them() -> None:
    module, _ = PLAIN["dict_output"]()
    for given, name in ((None, "left"), ({"left": torch.randn(2, 4)}, "right")):
        with pytest.raises(InvalidRequestError) as caught:
            make_inputs(module, None, given=given)
        assert f"cannot make up input '{name}' of DictOutput" in str(caught.value)
        assert f'inputs={{"{name}": tensor}} or --input {name}=' in str(caught.value)


def test_a_model_that_runs_on_nothing_names_its_main_input() -> None:
    class Broken(nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            msg = f"no image is good enough, not even {pixel_values.shape[0]}"
            raise RuntimeError(msg)

    with pytest.raises(InvalidRequestError) as caught:
        make_inputs(Broken(), tiny_config("vit"))
    assert "--input pixel_values=2x3x32x32:float32" in str(caught.value)
    assert "RuntimeError: no image is good enough" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ids=2x8:int64", ("ids", ShapeDtype((2, 8), "int64"))),
        ("x=4", ("x", ShapeDtype((4,)))),
        ("n=:int64", ("n", ShapeDtype((), "int64"))),
    ],
)
def test_input_options(text: str, expected: tuple[str, ShapeDtype]) -> None:
    assert parse_input_option(text) == expected


@pytest.mark.parametrize("text", ["ids", "ids=2xb:int64", "=2", "x=2x8:int65", "x=0x2"])
def test_input_options_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_input_option(text)


def test_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.ones((2, 8), dtype=np.float32))
    module, _ = PLAIN["mlp"]()
    inputs = make_inputs(module, None, given=load_npz(path))
    assert torch.equal(inputs.make()["x"], torch.ones(2, 8))


def test_npz_files_that_cannot_be_read(tmp_path: Path) -> None:
    array, objects, torn = (tmp_path / name for name in ("a.npy", "o.npz", "t.npz"))
    np.save(array, np.ones(2))
    np.savez(objects, x=np.array([{}], dtype=object))
    torn.write_bytes(b"PK\x03\x04 not really")
    for path in (array, objects, torn, tmp_path / "missing.npz"):
        with pytest.raises(InvalidRequestError, match=r"\.np[yz]"):
            load_npz(path)


def test_specs_say_what_they_are() -> None:
    spec = InputSpec(name="x", axes=("batch_size", 3), dtype="float32", fill="normal")
    inputs = ExampleInputs(specs=(spec,), sizes={"batch_size": 2}, other_sizes={"batch_size": 5})
    assert inputs.dynamic_axes == {"x": {0: "batch_size"}}
    assert inputs.make(sizes={"batch_size": 5})["x"].shape == (5, 3)


def test_configs_of_parts_keep_their_choices() -> None:
    """PE's config builds its parts' configs when they are read, and clears what these share."""
    module: Any = build("base:pe_audio_video")
    text = module.text_model.config
    chosen = text._attn_implementation
    make_inputs(module, module.config)
    assert chosen is not None
    assert text._attn_implementation == chosen
