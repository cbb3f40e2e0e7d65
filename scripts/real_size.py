"""Popular architectures at the size they were published in, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How to make a model of published size.

    Attributes:
        kind: Model type in transformers.
        class_name: The model's class.
        millions: Number of parameters as published, in millions.
        config: What differs from the type's defaults.
    """

    kind: str
    class_name: str
    millions: float
    config: Mapping[str, Any] = field(default_factory=dict)


def config_of(name: str) -> PretrainedConfig:
    """The config of one of `NAMES`, which says the class as well.

    Raises:
        KeyError: There is no such name.
    """
    size = SIZES[name]
    build: Any = CONFIG_MAPPING[size.kind]
    config: PretrainedConfig = build(**size.config)
    config.architectures = [size.class_name]
    return config


def build(name: str) -> nn.Module:
    """The model of that name, on torch's default device, weights drawn there."""
    config = config_of(name)
    model: nn.Module = getattr(transformers, SIZES[name].class_name)(config)
    return model


def write_checkpoint(name: str, folder: Path, seed: int) -> Path:
    """Writes `config.json` and `model.safetensors`; takes as much memory as the weights.

    Args:
        name: One of `NAMES`.
        folder: Made where it does not exist.
        seed: Of the random weights.

    Returns:
        The folder.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = build(name)
    model.save_pretrained(folder)
    return folder


# BERT's and most vision transformers' base size.
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}

TEXT = {
    "bert-base": Size(kind="bert", class_name="BertModel", millions=109.5),
    "minilm-l6": Size(
        kind="bert",
        class_name="BertModel",
        millions=22.7,
        config={
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
    ),
    "distilbert-base": Size(
        kind="distilbert", class_name="DistilBertForSequenceClassification", millions=67.0
    ),
    "roberta-base": Size(
        kind="roberta",
        class_name="RobertaForSequenceClassification",
        millions=124.6,
        config={"max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "xlm-roberta-base": Size(
        kind="xlm-roberta",
        class_name="XLMRobertaModel",
        millions=278.0,
        config={"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "electra-small": Size(kind="electra", class_name="ElectraForPreTraining", millions=13.5),
    "albert-base": Size(
        kind="albert",
        class_name="AlbertForMaskedLM",
        millions=11.2,
        config={**BASE, "embedding_size": 128, "vocab_size": 30000},
    ),
    "mpnet-base": Size(
        kind="mpnet",
        class_name="MPNetModel",
        millions=109.5,
        config={"vocab_size": 30527, "max_position_embeddings": 514},
    ),
    "deberta-v3-base": Size(
        kind="deberta-v2",
        class_name="DebertaV2ForTokenClassification",
        millions=183.8,
        config={
            **BASE,
            "vocab_size": 128100,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "layer_norm_eps": 1e-7,
        },
    ),
    "modernbert-base": Size(kind="modernbert", class_name="ModernBertForMaskedLM", millions=149.6),
    "longformer-base": Size(
        kind="longformer",
        class_name="LongformerForQuestionAnswering",
        millions=148.1,
        config={
            "vocab_size": 50265,
            "max_position_embeddings": 4098,
            "type_vocab_size": 1,
            "attention_window": [512] * 12,
        },
    ),
    "t5-base": Size(
        kind="t5",
        class_name="T5Model",
        millions=222.9,
        config={"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    ),
    "mt5-small": Size(
        kind="mt5",
        class_name="MT5ForConditionalGeneration",
        # 300 as published, with a head of its own, which transformers ties by now.
        millions=172.1,
    ),
    "bart-base": Size(
        kind="bart",
        class_name="BartForConditionalGeneration",
        millions=139.4,
        config={
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
        },
    ),
    "pegasus-large": Size(
        kind="pegasus",
        class_name="PegasusForConditionalGeneration",
        millions=570.8,
        config={"vocab_size": 96103, "encoder_layers": 16, "decoder_layers": 16},
    ),
    "marian-en-de": Size(
        kind="marian",
        class_name="MarianMTModel",
        millions=74.4,
        config={
            "vocab_size": 58101,
            "d_model": 512,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "max_position_embeddings": 512,
            "activation_function": "swish",
            "scale_embedding": True,
            "pad_token_id": 58100,
            "eos_token_id": 0,
            "decoder_start_token_id": 58100,
        },
    ),
}

DECODERS = {
    "gpt2": Size(kind="gpt2", class_name="GPT2LMHeadModel", millions=124.4),
    "opt-125m": Size(kind="opt", class_name="OPTForCausalLM", millions=125.2),
    "pythia-160m": Size(
        kind="gpt_neox",
        class_name="GPTNeoXForCausalLM",
        millions=162.3,
        config={**BASE, "vocab_size": 50304},
    ),
    "llama-0.85b": Size(
        kind="llama",
        class_name="LlamaForCausalLM",
        millions=850.5,
        config={
            "vocab_size": 32000,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 14,
            "num_attention_heads": 16,
        },
    ),
    "smollm2-135m": Size(
        kind="llama",
        class_name="LlamaForCausalLM",
        millions=134.5,
        config={
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2-0.5b": Size(
        kind="qwen2",
        class_name="Qwen2ForCausalLM",
        millions=494.0,
        config={
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b": Size(
        kind="qwen3",
        class_name="Qwen3ForCausalLM",
        millions=596.0,
        config={
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3-270m": Size(
        kind="gemma3_text",
        class_name="Gemma3ForCausalLM",
        millions=268.1,
        config={
            "vocab_size": 262144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "sliding_window": 512,
        },
    ),
    "mamba-130m": Size(
        kind="mamba",
        class_name="MambaForCausalLM",
        millions=129.1,
        config={"num_hidden_layers": 24, "vocab_size": 50280},
    ),
}

IMAGENET = {"num_labels": 1000}

VISION = {
    "resnet-50": Size(kind="resnet", class_name="ResNetModel", millions=23.5),
    "regnet-y-040": Size(
        kind="regnet", class_name="RegNetForImageClassification", millions=20.6, config=IMAGENET
    ),
    "efficientnet-b0": Size(
        kind="efficientnet",
        class_name="EfficientNetForImageClassification",
        millions=5.3,
        config={
            **IMAGENET,
            "image_size": 224,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "hidden_dim": 1280,
        },
    ),
    "convnext-tiny": Size(
        kind="convnext",
        class_name="ConvNextForImageClassification",
        millions=28.6,
        config=IMAGENET,
    ),
    "mobilevit-small": Size(
        kind="mobilevit",
        class_name="MobileViTForImageClassification",
        millions=5.6,
        config=IMAGENET,
    ),
    "vit-base": Size(kind="vit", class_name="ViTModel", millions=86.4),
    "deit-base": Size(
        kind="deit",
        class_name="DeiTForImageClassificationWithTeacher",
        millions=87.3,
        config=IMAGENET,
    ),
    "beit-base": Size(
        kind="beit",
        class_name="BeitForImageClassification",
        millions=86.5,
        config={**IMAGENET, "use_relative_position_bias": True, "vocab_size": 8192},
    ),
    "swin-tiny": Size(
        kind="swin", class_name="SwinForImageClassification", millions=28.3, config=IMAGENET
    ),
    "dinov2-base": Size(
        kind="dinov2",
        class_name="Dinov2Model",
        millions=86.6,
        config={"image_size": 518, "patch_size": 14},
    ),
    "detr-resnet-50": Size(
        kind="detr",
        class_name="DetrForObjectDetection",
        millions=41.5,
        config={
            "num_labels": 91,
            # The default backbone is the same network from timm, which is not installed.
            "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]},
            "use_timm_backbone": False,
        },
    ),
    "segformer-b0": Size(
        kind="segformer",
        class_name="SegformerForSemanticSegmentation",
        millions=3.75,
        config={"num_labels": 150},
    ),
    "sam-vit-base": Size(kind="sam", class_name="SamModel", millions=93.7),
}

SOUND_AND_MIXED = {
    "whisper-small": Size(
        kind="whisper",
        class_name="WhisperModel",
        millions=241.7,
        config={
            "d_model": 768,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
        },
    ),
    "wav2vec2-base": Size(kind="wav2vec2", class_name="Wav2Vec2ForCTC", millions=94.4),
    "hubert-base": Size(kind="hubert", class_name="HubertModel", millions=94.4),
    "speecht5": Size(kind="speecht5", class_name="SpeechT5ForTextToSpeech", millions=144.4),
    "encodec-24khz": Size(kind="encodec", class_name="EncodecModel", millions=14.9),
    "clip": Size(kind="clip", class_name="CLIPModel", millions=151.3),
    "siglip-base": Size(kind="siglip", class_name="SiglipModel", millions=203.2),
    # 247 as published, with a head of its own, which transformers ties by now.
    "blip-base": Size(kind="blip", class_name="BlipForConditionalGeneration", millions=224.0),
    "layoutlmv3-base": Size(
        kind="layoutlmv3",
        class_name="LayoutLMv3ForTokenClassification",
        millions=125.3,
        config={
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
        },
    ),
    "trocr-base": Size(
        kind="vision-encoder-decoder",
        class_name="VisionEncoderDecoderModel",
        millions=333.9,
        config={
            "encoder": {"model_type": "vit", "image_size": 384, "qkv_bias": False},
            "decoder": {
                "model_type": "trocr",
                "is_decoder": True,
                "add_cross_attention": True,
                "cross_attention_hidden_size": 768,
            },
        },
    ),
}

SIZES = {**TEXT, **DECODERS, **VISION, **SOUND_AND_MIXED}
NAMES = tuple(SIZES)
