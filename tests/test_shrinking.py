"""The generic shrinker, on a handful of default configs."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING, PretrainedConfig

from scripts.shrinking import LADDER, Scale, shrink
from scripts.shrinking_fields import kind_of, own_values, pick_layers


def tiny(kind: str, scale: Scale = LADDER[0]) -> Any:
    return shrink(CONFIG_MAPPING[kind](), scale)


def test_special_tokens_are_in_the_vocabulary_and_distinct_ones_stay_distinct() -> None:
    default: Any = CONFIG_MAPPING["qwen2_vl"]()
    config = tiny("qwen2_vl")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    assert min(getattr(default, name) for name in names) >= config.text_config.vocab_size
    ids = {getattr(config, name) for name in names}
    assert len(ids) == len(names)
    assert max(ids) < config.text_config.vocab_size


@pytest.mark.parametrize("kind", ["bert", "llama", "vit", "gpt2"])
def test_heads_divide_the_width(kind: str) -> None:
    config = tiny(kind)
    assert config.hidden_size == 64
    assert config.num_attention_heads == 4
    assert config.num_hidden_layers == 2


def test_keys_are_as_many_as_queries_where_they_were() -> None:
    assert tiny("llama").num_key_value_heads == 4
    assert tiny("mistral").num_key_value_heads == 2


def test_stages_keep_their_ratios() -> None:
    config = tiny("swin")
    assert config.embed_dim % config.num_heads[0] == 0
    assert set(config.depths) == {1}
    assert config.image_size % config.patch_size == 0


def test_sub_configs_are_shrunk_too() -> None:
    config = tiny("clip")
    parts: list[PretrainedConfig] = [config.text_config, config.vision_config]
    assert {part.hidden_size for part in parts} == {64}


def test_there_is_one_layer_of_each_kind() -> None:
    config = tiny("gemma3_text")
    assert sorted(config.layer_types) == ["full_attention", "sliding_attention"]
    assert config.num_hidden_layers == 2


def test_what_single_layers_have_of_their_own_goes_where_they_go() -> None:
    config = tiny("neomme")
    full = config.layer_types.index("full_attention")
    assert config.per_layer_config[full].sliding_window is None
    assert config.per_layer_config[config.layer_types.index("sliding_attention")].sliding_window


def test_a_backbone_returns_as_many_stages_as_before() -> None:
    default: Any = CONFIG_MAPPING["d_fine"]().backbone_config
    assert tiny("d_fine").backbone_config.out_features == default.out_features


def test_a_backbone_of_timm_becomes_one_of_transformers_own() -> None:
    default: Any = CONFIG_MAPPING["detr"]().backbone_config
    backbone = tiny("detr").backbone_config
    assert (default.model_type, backbone.model_type) == ("timm_backbone", "resnet")
    assert backbone.out_indices == default.out_indices


def test_a_size_that_the_default_leaves_out_is_filled_in() -> None:
    assert tiny("esm").vocab_size is None
    assert tiny("esm", Scale(width=64, fill=True)).vocab_size == 256


def test_a_token_that_the_default_leaves_out_gets_an_id_of_its_own() -> None:
    default: Any = CONFIG_MAPPING["blip-2"]()
    assert default.image_token_index is None
    config = tiny("blip-2", Scale(width=64, fill=True))
    ids = {config.image_token_index, config.text_config.bos_token_id}
    assert len(ids) == 2
    assert max(ids) < config.text_config.vocab_size


def test_layers_of_a_part_are_layers_that_it_keeps() -> None:
    config = tiny("molmo2")
    assert len(set(config.adapter_config.vision_feature_layer)) == 2
    assert max(config.adapter_config.vision_feature_layer) < config.vision_config.num_hidden_layers


def test_grids_are_as_many_as_there_are_patches() -> None:
    vision = tiny("sam3_tracker").vision_config
    backbone = vision.backbone_config
    patches = backbone.image_size // backbone.patch_size
    assert vision.backbone_feature_sizes == [[side * patches] * 2 for side in (4, 2, 1)]


def test_tiles_are_of_the_size_of_the_small_image() -> None:
    config = tiny("llava_next")
    sides = {side for tile in config.image_grid_pinpoints for side in tile}
    assert all(side % config.vision_config.image_size == 0 for side in sides)
    assert max(sides) <= 4 * config.vision_config.image_size


def test_a_patch_that_is_an_image_of_its_own_becomes_one() -> None:
    config = tiny("depth_pro")
    assert config.patch_size == config.image_model_config.image_size
    assert config.patch_size > config.image_model_config.patch_size


def test_numbers_that_follow_others_are_left_to_the_class() -> None:
    config: Any = CONFIG_MAPPING["llama"]()
    assert "head_dim" in own_values(config, derived=True)
    assert "head_dim" not in own_values(config)
    assert tiny("llama").head_dim == 16


def test_lists_of_layers_name_the_layers_that_stay() -> None:
    values = {
        "num_hidden_layers": 6,
        "kinds": ["a", "a", "b", "a", "a", "b"],
        "out_layers": [4],
    }
    picks = pick_layers(values, {}, fewest=2)
    assert picks.kept == (0, 2, 4)
    assert picks.moved([4, 5, -1]) == [2, -1]
    assert pick_layers(values, {}, fewest=2, each=2).kept == (0, 1, 2, 4, 5)


def test_fields_are_told_by_name() -> None:
    names = ("image_token_id", "vocab_size", "num_hidden_layers", "hidden_size", "type_vocab_size")
    assert [kind_of(name) for name in names] == ["token", "vocabulary", "layers", "width", "keep"]


@pytest.mark.parametrize("kind", ["llama4", "blip-2"])
def test_the_same_config_on_every_call(kind: str) -> None:
    assert tiny(kind).to_dict() == tiny(kind).to_dict()
