"""Checkpoints and modules load into the right class with the right weights, or not at all."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from selector import source
from selector.errors import InvalidRequestError, ModelLoadError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny BERT classifier, its weights not those of seed 0."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        architectures=["BertForSequenceClassification"],
    )
    return BertForSequenceClassification(config)


def _save(model: Any, folder: Path, form: str) -> Path:

    folder.mkdir()
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if form == "safetensors":
        model.save_pretrained(folder)
    elif form == "sharded safetensors":
        model.save_pretrained(folder, max_shard_size="2KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = list(state)
        parts = {"one.bin": names[:5], "two.bin": names[5:]}
        for part, held in parts.items():
            torch.save({name: state[name] for name in held}, folder / part)
        index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}} | index))
    return folder


@pytest.mark.parametrize("form", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_every_format_loads_the_same_weights(form: str, model: Any, tmp_path: Path) -> None:

    loaded = source.load(source.resolve(_save(model, tmp_path / "saved", form)))
    state = loaded.module.state_dict()
    assert type(loaded.module) is type(model)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.config is not None
    assert loaded.config.hidden_size == 8
    assert loaded.notes == ()


def test_half_precision_is_loaded_as_float32_and_noted(model: Any, tmp_path: Path) -> None:

    folder = _save(copy.deepcopy(model).half(), tmp_path / "half", "safetensors")
    loaded = source.load(source.resolve(folder))
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    assert loaded.notes == ("weights are stored in float16 and are used as float32",)
    random = source.load(source.resolve(folder, random_weights=True))
    assert {parameter.dtype for parameter in random.module.parameters()} == {torch.float32}


def test_random_weights_are_the_same_every_time(model: Any, tmp_path: Path) -> None:

    wanted = source.resolve(_save(model, tmp_path / "saved", "safetensors"), random_weights=True)
    one, two = source.load(wanted), source.load(wanted)
    assert "random" in one.notes[0]
    values = zip(one.module.parameters(), two.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in values)
    assert not torch.equal(one.module.get_parameter("classifier.weight"), model.classifier.weight)


def test_the_task_decides_the_class(model: Any, tmp_path: Path) -> None:
    folder = _save(model, tmp_path / "saved", "safetensors")

    def loaded(task: str) -> source.LoadedModel:
        return source.load(source.resolve(folder, task=task))

    assert type(loaded("text-classification").module) is type(model)
    assert type(loaded("feature-extraction").module).__name__ == "BertModel"
    with pytest.raises(ModelLoadError, match=r"lacks weights .* cls\.predictions\.bias"):
        loaded("fill-mask")
    with pytest.raises(InvalidRequestError, match=r"no class for the task 'object-detection'"):
        loaded("object-detection")


def test_missing_weights_are_never_made_up(model: Any, tmp_path: Path) -> None:
    folder = _save(model.bert, tmp_path / "base", "safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"lacks weights .*classifier.*task='feature"):
        source.load(source.resolve(folder))


def test_weights_that_only_training_reads_may_be_missing(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    speech = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            conv_dim=(8,),
            conv_stride=(2,),
            conv_kernel=(3,),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    )
    state = speech.state_dict()
    del state["wav2vec2.masked_spec_embed"]
    speech.save_pretrained(tmp_path / "speech", state_dict=state)
    loaded = source.load(source.resolve(tmp_path / "speech"))
    assert type(loaded.module) is Wav2Vec2ForCTC
    assert torch.equal(loaded.module.get_parameter("lm_head.weight"), speech.lm_head.weight)


def test_a_pooler_without_weights_is_left_out(model: Any, tmp_path: Path) -> None:
    from transformers import BertModel

    folder = _save(
        BertModel(model.config, add_pooling_layer=False), tmp_path / "base", "safetensors"
    )
    loaded = source.load(source.resolve(folder, task="feature-extraction"))
    assert type(loaded.module) is BertModel
    assert loaded.module.pooler is None
    assert "pooler" in loaded.notes[0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bort3"}, "'bort3', which transformers .* upgrade transformers"),
        ({"model_type": "bort3", "auto_map": {"AutoConfig": "a.B"}}, "trust the code it brings"),
        ({"architectures": ["TFBertModel"]}, "names the class 'TFBertModel'"),
        ({"architectures": ["BertTokenizer"]}, "names the class 'BertTokenizer'"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"vocab_size": 30}, "cannot be loaded"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    config: dict[str, Any], words: str, model: Any, tmp_path: Path
) -> None:
    folder = _save(model, tmp_path / "saved", "safetensors")
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | config))
    with pytest.raises(ModelLoadError, match=words) as caught:
        source.load(source.resolve(folder))
    assert "\n" not in str(caught.value)


def test_code_in_a_pickled_checkpoint_does_not_run(model: Any, tmp_path: Path) -> None:

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = _save(model, tmp_path / "saved", "bin")
    torch.save({"bert.pooler.dense.bias": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        source.load(source.resolve(folder))
    assert not (tmp_path / "ran").exists()


_REMOTE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel

class TinyConfig(PreTrainedConfig):
    model_type = "tiny-remote"

class TinyModel(PreTrainedModel):
    config_class = TinyConfig
    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.post_init()
    def forward(self, x):
        return x + self.weight
"""


def test_remote_code_runs_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "model_type": "tiny-remote",
        "architectures": ["TinyModel"],
        "auto_map": {"AutoConfig": "tiny.TinyConfig", "AutoModel": "tiny.TinyModel"},
    }
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tiny.py").write_text(_REMOTE)
    save_file({"weight": torch.tensor([1.0, 2.0, 3.0])}, folder / "model.safetensors")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    with pytest.raises(ModelLoadError, match="--trust-remote-code"):
        source.load(source.resolve(folder))
    assert not (tmp_path / "modules").exists()
    trusted = source.resolve(folder, trust_remote_code=True)
    loaded = source.load(trusted)
    assert type(loaded.module).__name__ == "TinyModel"
    assert loaded.module.get_parameter("weight").tolist() == [1, 2, 3]
    with pytest.raises(InvalidRequestError, match=r"'fill-mask'; it has: AutoModel$"):
        source.load(replace(trusted, task="fill-mask"))
    assert "tiny.py" in [path.name for path in source.companion_files(trusted)]


def test_a_type_name_needs_no_files() -> None:
    loaded = source.load(source.resolve("resnet", random_weights=True, task="image-classification"))
    assert type(loaded.module).__name__ == "ResNetForImageClassification"
    with pytest.raises(ModelLoadError, match="unknown model type 'brt'; did you mean 'bert'"):
        source.load(source.resolve("brt", random_weights=True))


def test_the_digest_is_of_the_architecture(model: Any, tmp_path: Path) -> None:
    from transformers import BertConfig

    folder = _save(model, tmp_path / "saved", "safetensors")
    digest = source.config_digest(folder)
    loaded = source.load(source.resolve(folder))
    assert loaded.config is not None
    assert digest == source.config_digest(loaded.config)
    assert digest == source.config_digest(model.config)
    assert digest != source.config_digest(BertConfig())
    assert len(digest) == 64


_OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.activation = lambda x: x * 10

    def forward(self, x):
        return self.activation(x * self.weight)
"""

_ELSEWHERE = """
import pickle, sys, threading
from selector import source
before = threading.active_count()
found = pickle.load(open(sys.argv[1], "rb"))
loaded = source.load(found)
again = source.load(source.resolve(sys.argv[2]))
import torch
assert loaded.config is None and again.config is not None
assert not loaded.module.training and not loaded.module.weight.requires_grad
print(loaded.module(torch.ones(2)).tolist(), threading.active_count() - before)
"""


def test_a_module_reaches_another_process_and_loading_is_quiet(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    (tmp_path / "users_own.py").write_text(_OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("users_own").Own()
    found = source.resolve(module)
    assert (found.kind, found.name, found.origin) == ("module", "Own", "users_own.Own")
    staged = replace(found, module_file=source.stage_module(module, tmp_path))
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(staged))
    saved = _save(model, tmp_path / "saved", "safetensors")
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "source.pickle"), str(saved)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "[20.0, 30.0] 0\n"
    assert module.training


def test_what_cannot_be_pickled_is_named(tmp_path: Path) -> None:

    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    setattr(module[1], "lock", threading.Lock())  # noqa: B010 - not an attribute of ReLU
    with pytest.raises(InvalidRequestError, match=r"^Sequential\.1\.lock cannot be pickled") as it:
        source.stage_module(module, tmp_path)
    assert "\n" not in str(it.value)
    assert list(tmp_path.iterdir()) == []


def test_a_module_has_its_own_weights(model: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"random_weights is not for an nn\.Module"):
        source.resolve(model, random_weights=True)
    with pytest.raises(InvalidRequestError, match="revision is for Hub ids"):
        source.resolve(model, revision="main")
    assert source.resolve(model).name == "BertForSequenceClassification"


class Scaled(nn.Module):
    """Weight-normalised, in a class that only this file knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


def test_a_parametrized_module_travels_whole(tmp_path: Path) -> None:
    module = Scaled().eval()
    asked = source.resolve(module)
    staged = replace(asked, module_file=source.stage_module(module, tmp_path))
    loaded = source.load(staged).module
    x = torch.randn(2, 3)
    assert torch.equal(loaded(x), module(x))
    assert loaded.state_dict().keys() == module.state_dict().keys()
