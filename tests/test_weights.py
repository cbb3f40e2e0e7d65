"""Mapped checkpoints give the weights that transformers would read, and say where they lie."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scripts.sparse_checkpoint import write_sparse_checkpoint
from scripts.zoo import tiny_config, tiny_model
from selector import source
from selector.watching import Watch, WatchReads
from selector.weights import map_checkpoint
from strategies.stored import StoredTensor

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # Deprecated arguments within transformers' own configs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def saved(model: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Path:
    copy.deepcopy(model).to(dtype).save_pretrained(folder, **options)
    return folder


def bytes_of(stored: StoredTensor) -> torch.Tensor:
    """What lies at the place, in the dtype it is said to have there."""
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        data = bytearray(file.read(stored.nbytes))
    return torch.frombuffer(data, dtype=getattr(torch, stored.dtype)).reshape(stored.shape)


def ties(module: nn.Module) -> set[frozenset[str]]:
    named = dict(module.named_parameters(remove_duplicate=False))
    return {frozenset(k for k, p in named.items() if p is q) for q in module.parameters()}


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def assert_as_transformers_loads_it(loaded: source.LoadedModel, folder: Path) -> None:
    loader: Any = type(loaded.module)
    ordinary = loader.from_pretrained(folder, dtype=torch.float32)
    found, expected = tensors(loaded.module), tensors(ordinary)
    assert list(found) == list(expected)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in expected.items()}
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert ties(loaded.module) == ties(ordinary)
    for value in found.values():
        place = loaded.weights.locate(value)
        assert place is None or torch.equal(bytes_of(place).to(value.dtype), value)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "t5", "resnet", "mixtral", "wav2vec2", "swin", "clip"]
)
def test_every_weight_is_what_transformers_reads(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = saved(tiny_model(name, seed=1), tmp_path, dtype)
    loaded = source.load(source.resolve(folder), real=False)
    parameters = list(loaded.module.parameters())
    nowhere = [value for value in parameters if loaded.weights.locate(value) is None]
    # Experts are stored one by one, and stacked by transformers.
    assert len(nowhere) == (4 if name == "mixtral" else 0)
    assert loaded.weights.filled is (dtype is torch.float32)
    assert not any(loaded.weights.is_waiting(value) for value in loaded.module.buffers())
    loaded.weights.fill()
    assert loaded.weights.filled
    assert_as_transformers_loads_it(loaded, folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_are_each_found_in_their_own_file(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(tiny_model("bert", seed=1), tmp_path, dtype, max_shard_size="20KB")
    shards = {file.name for file in folder.glob("*.safetensors")}
    assert len(shards) > 2
    loaded = source.load(source.resolve(folder))
    places = [loaded.weights.locate(value) for value in loaded.module.parameters()]
    assert {place.file.name for place in places if place} == shards
    assert all(places)
    assert_as_transformers_loads_it(loaded, folder)


def classifier(**config: Any) -> Any:
    from transformers import BertForSequenceClassification

    made: Any = tiny_config("bert")
    made.update({"architectures": ["BertForSequenceClassification"], **config})
    torch.manual_seed(1)
    return BertForSequenceClassification(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_names_of_old_and_prefixes_of_heads(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(classifier(), tmp_path / "head", dtype)
    base = source.load(source.resolve(folder, task="feature-extraction"))
    assert type(base.module).__name__ == "BertModel"
    assert_as_transformers_loads_it(base, folder)
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    assert any(name.endswith("gamma") for name in state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    old = source.load(source.resolve(folder))
    assert all(old.weights.locate(value) for value in old.module.parameters())
    assert_as_transformers_loads_it(old, folder)


def test_a_base_model_s_weights_under_a_head(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    config: Any = tiny_config("gpt2")
    torch.manual_seed(1)
    saved(GPT2LMHeadModel(config).transformer, tmp_path, torch.bfloat16)
    loaded = source.load(source.resolve(tmp_path, task="text-generation"), real=False)
    assert type(loaded.module) is GPT2LMHeadModel
    assert all(loaded.weights.locate(value) for value in loaded.module.parameters())
    loaded.weights.fill()
    assert_as_transformers_loads_it(loaded, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("equal", [True, False])
def test_weights_that_should_be_tied_are_compared(
    equal: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import GPT2LMHeadModel

    torch.manual_seed(1)
    config: Any = tiny_config("gpt2")
    model = GPT2LMHeadModel(config)
    folder = saved(model, tmp_path, dtype)
    state = load_file(folder / "model.safetensors")
    head = state["transformer.wte.weight"].clone()
    state["lm_head.weight"] = head if equal else head + 1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = source.load(source.resolve(folder, task="text-generation"), real=False)
    output, embedding = (
        loaded.module.get_parameter(n) for n in ("lm_head.weight", "transformer.wte.weight")
    )
    assert (output is embedding) is equal
    # The comparison gave back what it needed.
    assert loaded.weights.filled is (dtype is torch.float32)
    loaded.weights.fill()
    assert_as_transformers_loads_it(loaded, folder)


def test_a_torch_that_cannot_be_watched_reads_weights_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tiny_model("mixtral", seed=1), tmp_path, torch.bfloat16)
    monkeypatch.setitem(sys.modules, "torch.utils._python_dispatch", None)
    monkeypatch.delitem(sys.modules, "selector.watching", raising=False)
    loaded = source.load(source.resolve(folder), real=False)
    assert not any(loaded.weights.locate(value) for value in loaded.module.parameters())
    monkeypatch.undo()
    assert_as_transformers_loads_it(loaded, folder)


def test_float64_and_integers(tmp_path: Path) -> None:
    folder = saved(tiny_model("resnet", seed=1), tmp_path, torch.float64)
    loaded = source.load(source.resolve(folder))
    assert_as_transformers_loads_it(loaded, folder)
    counters = [value for value in loaded.module.buffers() if value.dtype is torch.int64]
    assert counters
    assert all(loaded.weights.locate(value) for value in counters)


def write_file(path: Path, state: dict[str, torch.Tensor], *, pad: int = 0) -> Path:
    """A safetensors file whose header is longer than it need be."""
    save_file(state, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * pad
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return path


def test_tensors_at_odd_addresses_are_read(tmp_path: Path) -> None:
    state = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).half(),
        "c": torch.arange(3).to(torch.int8),
    }
    for pad in range(8):
        file = write_file(tmp_path / "model.safetensors", state, pad=pad)
        mapped = map_checkpoint(tmp_path, file.name)
        assert mapped is not None
        found, store = mapped
        store.fill()
        for name, value in state.items():
            wanted = value.float() if value.dtype is torch.float16 else value
            assert torch.equal(found[name], wanted)
            place = store.locate(found[name])
            assert place is None or torch.equal(bytes_of(place), value)
        assert store.locate(found["c"]) is not None


def test_empty_tensors_and_scalars(tmp_path: Path) -> None:
    state = {"none": torch.zeros(0, 3), "half": torch.zeros(0).half(), "one": torch.tensor(2.5)}
    save_file(state, tmp_path / "model.safetensors")
    mapped = map_checkpoint(tmp_path, "model.safetensors")
    assert mapped is not None
    found, store = mapped
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in state.items()
    }
    assert found["half"].dtype is torch.float32
    assert found["one"] == 2.5
    assert store.locate(found["none"]) is None
    assert store.filled


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "F8_E4M3", "shape": [16]}, "a dtype that models are not computed in"),
        ({"shape": [3]}, "a shape that does not fit"),
        ({"data_offsets": [-4, 12]}, "before the beginning"),
    ],
)
def test_a_header_that_makes_no_sense_is_left_to_transformers(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes
    header = json.dumps({"weight": entry}).encode()
    length = entry["data_offsets"][1]
    data = len(header).to_bytes(8, "little") + header + bytes(length)
    (tmp_path / "model.safetensors").write_bytes(data)
    assert map_checkpoint(tmp_path, "model.safetensors") is None, why


def test_parts_of_a_tensor_are_found_and_other_views_are_not(tmp_path: Path) -> None:
    state = {"single": torch.randn(6, 4), "half": torch.randn(6, 4).bfloat16()}
    save_file(state, tmp_path / "model.safetensors")
    mapped = map_checkpoint(tmp_path, "model.safetensors")
    assert mapped is not None
    found, store = mapped
    for name, value in state.items():
        part = store.locate(found[name][2:4])
        assert part is not None
        assert torch.equal(bytes_of(part), value[2:4])
        row = store.locate(found[name][3])
        assert row is not None
        assert torch.equal(bytes_of(row), value[3])
    assert store.locate(found["single"].t()) is None
    assert store.locate(found["single"].view(torch.int32)) is None
    assert store.locate(found["single"].clone()) is None
    assert store.locate(torch.empty(2, device="meta")) is None
    # What has to be saved from memory must have its values there.
    assert store.is_waiting(found["half"])
    assert store.locate(found["half"].t()) is None
    assert not store.is_waiting(found["half"])
    assert torch.equal(found["half"], state["half"].float())


def test_what_is_written_to_is_no_longer_on_disk(tmp_path: Path) -> None:
    state = {"single": torch.ones(4), "half": torch.ones(4).half(), "other": torch.ones(4)}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    before = file.read_bytes()
    mapped = map_checkpoint(tmp_path, file.name)
    assert mapped is not None
    found, store = mapped
    with Watch(store):
        found["single"].mul_(2)
        torch.add(found["other"], 1, out=found["half"])
        read = found["other"] + 1
    assert store.locate(found["single"]) is None
    assert store.locate(found["half"]) is None
    assert store.locate(found["other"]) is not None
    assert torch.equal(found["single"], torch.full((4,), 2.0))
    assert torch.equal(found["half"], read)
    assert file.read_bytes() == before


def test_operators_find_values_while_watched_and_leave_nothing_behind(tmp_path: Path) -> None:
    state = {"a": torch.randn(64, 64).bfloat16(), "b": torch.randn(64, 64).bfloat16()}
    save_file(state, tmp_path / "model.safetensors")
    mapped = map_checkpoint(tmp_path, "model.safetensors")
    assert mapped is not None
    found, store = mapped
    with Watch(store):
        stacked = torch.stack([found["a"], found["b"]])
    assert torch.equal(stacked, torch.stack([state["a"].float(), state["b"].float()]))
    assert store.is_waiting(found["a"])
    store.keep([found["a"]])
    store.fill()
    assert torch.equal(found["a"], state["a"].float())
    assert store.locate(found["b"]) is None


def test_reads_past_the_operators_find_values_while_watched(tmp_path: Path) -> None:
    state = {name: torch.randn(64).bfloat16() for name in ("listed", "array", "gathered", "number")}
    save_file(state, tmp_path / "model.safetensors")
    mapped = map_checkpoint(tmp_path, "model.safetensors")
    assert mapped is not None
    found, store = mapped
    with Watch(store), WatchReads(store):
        assert found["listed"].tolist() == state["listed"].tolist()
        assert np.array_equal(found["array"].numpy(), state["array"].float().numpy())
        gathered = torch.tensor([found["gathered"][0], found["gathered"][1]])
        assert float(found["number"][3]) == float(state["number"][3])
    assert torch.equal(gathered, state["gathered"][:2].float())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_seven_billion_parameters_take_neither_time_nor_memory(dtype: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32000,
        architectures=["LlamaForCausalLM"],
    )
    folder = write_sparse_checkpoint(config, tmp_path, dtype)
    file = folder / "model.safetensors"
    assert file.stat().st_size > 13e9
    assert file.stat().st_blocks * 512 < 1e6
    before = psutil.Process().memory_info().rss
    loaded = source.load(source.resolve(folder), real=False)
    assert psutil.Process().memory_info().rss - before < 50e6
    places = [loaded.weights.locate(value) for value in loaded.module.parameters()]
    assert len(places) == 291
    assert {place.dtype for place in places if place} == {dtype}
    assert all(places)
    assert loaded.weights.filled is (dtype == "float32")
