"""Where a file's weights go: a checkpoint's own bytes, one stream from memory, or into the file."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from scripts.zoo import tiny_model
from selector import source
from selector.steps import Subject
from strategies import hierarchy, placing, registry, saving
from strategies.base import REAL, VOID, Candidate, ExportArtifact
from strategies.errors import InvalidRequestError
from tests.exporting import largest_error, request_for

INPUTS = {"input_ids": torch.randint(1, 90, (2, 7), generator=torch.Generator().manual_seed(0))}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # Deprecated arguments within transformers' own configs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def checkpoint(folder: Path, dtype: torch.dtype, **options: Any) -> source.LoadedModel:
    """A tiny BERT, as the session loads it from a folder."""
    model: Any = tiny_model("bert", seed=1)
    model.to(dtype).save_pretrained(folder, **options)
    return source.load(source.resolve(folder))


def export(
    loaded: source.LoadedModel,
    folder: Path,
    how: str,
    *,
    strategy: str = "usage_based",
    weights: str = VOID,
) -> ExportArtifact:
    folder.mkdir()
    candidate = Candidate(strategy=strategy, dynamic=False, weights=weights)
    request = request_for(
        loaded.module,
        INPUTS,
        candidate,
        folder,
        weights=how,
        data_stem="mine",
        locate=loaded.weights.locate,
    )
    return registry.resolve(strategy)(request)


def pointers(path: Path) -> dict[str, tuple[str, int]]:
    """File and offset of every initializer that lies beside the model."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        said = {entry.key: entry.value for entry in tensor.external_data}
        if said:
            found[tensor.name] = said["location"], int(said["offset"])
    return found


def values(path: Path) -> dict[str, Any]:
    """All initializers as onnx itself reads them, halves as float32."""
    arrays = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    return {
        name: array.astype(np.float32) if array.dtype.itemsize == 2 else array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["copy", "link", "embed"])
def test_a_checkpoint_s_own_bytes(how: str, dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path / "saved", dtype)
    path = export(loaded, tmp_path / "out", how).path
    original = tmp_path / "saved" / "model.safetensors"
    files = {file.name: file for file in path.parent.iterdir()}
    assert largest_error(path, loaded.module, INPUTS) < 1e-5
    if how == "embed":
        assert set(files) == {"model.onnx"}
    else:
        assert set(files) == {"model.onnx", "mine.safetensors"}
        assert files["mine.safetensors"].read_bytes() == original.read_bytes()
        assert files["mine.safetensors"].samefile(original) is (how == "link")
        assert {file for file, _ in pointers(path).values()} == {"mine.safetensors"}
        assert path.stat().st_size < 150_000
    if how != "link":
        onnx.checker.check_model(str(path))
        # onnx refuses to read what is linked to, as an attacker may have linked it.
        found = values(path)
        named = {k: v for k, v in loaded.module.named_parameters() if k in found}
        assert len(named) > 15
        for name, parameter in named.items():
            assert np.array_equal(found[name], parameter.numpy()), name


@pytest.mark.parametrize("strategy", ["usage_based", "htp", "fx"])
def test_every_strategy_s_weights_are_found(strategy: str, tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path / "saved", torch.float32)
    path = export(loaded, tmp_path / "out", "copy", strategy=strategy, weights=REAL).path
    assert largest_error(path, loaded.module, INPUTS) < 1e-5
    assert "embeddings.word_embeddings.weight" in pointers(path)
    beside = {name: file for name, (file, _) in pointers(path).items() if name.endswith("weight")}
    assert set(beside.values()) == {"mine.safetensors"}


def test_shards_keep_their_numbers(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path / "saved", torch.bfloat16, max_shard_size="20KB")
    path = export(loaded, tmp_path / "out", "copy").path
    shards = sorted(file.name for file in (tmp_path / "saved").glob("*.safetensors"))
    names = {name.replace("model-", "mine-") for name in shards}
    assert {file for file, _ in pointers(path).values()} == names
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", *names}
    assert largest_error(path, loaded.module, INPUTS) < 1e-5


def test_half_precision_is_cast_where_it_is_read(tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path / "saved", torch.bfloat16)
    artifact = export(loaded, tmp_path / "out", "copy")
    model = onnx.load(artifact.path)
    stored = {item.name: item for item in model.graph.initializer}
    casts = [node for node in model.graph.node if node.input[0] in pointers(artifact.path)]
    assert {node.op_type for node in casts} == {"Cast"}
    assert len({node.name for node in casts}) == len(casts) > 10
    for node in casts:
        assert stored[node.input[0]].data_type == onnx.TensorProto.BFLOAT16
        tags = {entry.key: entry.value for entry in node.metadata_props}
        owner = node.input[0].rpartition(".")[0]
        assert tags[hierarchy.MODULE] == owner
        assert tags[hierarchy.ATTRIBUTION] == hierarchy.PROJECTED
        assert node.name.startswith(f"{hierarchy.node_prefix(owner)}/Cast")
        assert owner.rpartition(".")[2] in tags[hierarchy.NAMESPACE]
    small = "embeddings.LayerNorm.weight"
    assert stored[small].data_type == onnx.TensorProto.FLOAT
    assert small not in pointers(artifact.path)


def test_a_void_capture_leaves_half_precision_waiting(tmp_path: Path) -> None:
    real = checkpoint(tmp_path / "saved", torch.bfloat16)
    loaded = source.load(real.source, real=False)
    subject = Subject(loaded=loaded)
    void, filled = (Candidate(strategy="usage_based", weights=kind) for kind in (VOID, REAL))
    folder = tmp_path / "out"
    folder.mkdir()
    request = request_for(real.module, INPUTS, void, folder, locate=loaded.weights.locate)
    module = subject.module_for(void)
    registry.resolve("usage_based")(replaced(request, module))
    assert not loaded.weights.filled
    assert largest_error(folder / "model.onnx", real.module, INPUTS) < 1e-5
    assert subject.module_for(filled) is module
    assert loaded.weights.filled


def replaced(request: Any, module: nn.Module) -> Any:
    import dataclasses

    return dataclasses.replace(request, load_model=lambda: module)


# Weights from memory


class Mixed(nn.Module):
    """Weights that lie in memory in every way."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.plain = nn.Parameter(torch.randn(33, 31, generator=generator))
        self.turned = nn.Parameter(torch.randn(31, 33, generator=generator).t())
        self.part = nn.Parameter(torch.randn(33, 62, generator=generator)[:, ::2])
        self.small = nn.Parameter(torch.randn(31, generator=generator))
        self.register_buffer("mask", torch.rand(33, 31, generator=generator) > 0.5)
        self.brief = nn.Parameter(torch.randn(33, 31, generator=generator).bfloat16())
        self.wide = nn.Parameter(torch.randn(33, 31, generator=generator).double())

    def forward(self, x: Tensor) -> Tensor:
        mask = self.get_buffer("mask")
        kept = torch.where(mask, self.plain, self.turned * self.part)
        return x @ (kept + self.brief.float() + self.wide.float()) + self.small


@pytest.mark.parametrize("how", ["copy", "link", "embed"])
@pytest.mark.parametrize("strategy", ["usage_based", "htp"])
def test_weights_from_memory(strategy: str, how: str, tmp_path: Path) -> None:
    module = Mixed().eval().requires_grad_(False)
    inputs = {"x": torch.randn(2, 33)}
    candidate = Candidate(strategy=strategy, dynamic=False)
    request = request_for(module, inputs, candidate, tmp_path, weights=how, data_stem="mine")
    artifact = registry.resolve(strategy)(request)
    assert largest_error(artifact.path, module, inputs) < 1e-5
    expected = {"model.onnx"} if how == "embed" else {"model.onnx", "mine.onnx.data"}
    assert {file.name for file in tmp_path.iterdir()} == expected
    assert artifact.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    found = values(artifact.path)
    for name, tensor in module.state_dict().items():
        wanted = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        assert np.array_equal(found[name], wanted.numpy()), name
    placed = pointers(artifact.path)
    assert "small" not in placed
    if how != "embed":
        large = {"plain", "turned", "part", "brief", "wide"}
        assert large <= set(placed)
        assert {offset % saving.ALIGNMENT for _, offset in placed.values()} == {0}


def graph_of(tensors: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """A model that adds up its weights."""
    x = ir.val("x", ir.DataType.FLOAT, [1])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="main")
    total = x
    for name, tensor in tensors.items():
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.val(name, tensor.dtype, shape, const_value=tensor)
        graph.register_initializer(value)
        summed = ir.node("ReduceSum", [value], attributes={"keepdims": 0})
        added = ir.node("Add", [total, summed.outputs[0]])
        graph.extend([summed, added])
        total = added.outputs[0]
    total.name, total.type, total.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1])
    graph.outputs.append(total)
    return ir.Model(graph, ir_version=10)


def plain_request(folder: Path, how: str) -> Any:
    candidate = Candidate(strategy="usage_based")
    return request_for(nn.Identity(), {"input": torch.ones(1)}, candidate, folder, weights=how)


def sparse(path: Path, size: int) -> ir.ExternalTensor:
    """float32 zeros that take no room on disk."""
    with path.open("wb") as file:
        file.truncate(size)
    shape = ir.Shape([size // 4])
    return ir.ExternalTensor(
        path.name, 0, size, ir.DataType.FLOAT, shape=shape, name="w", base_dir=path.parent
    )


def test_what_is_too_large_for_one_file_is_refused(tmp_path: Path) -> None:
    model = graph_of({"w": sparse(tmp_path / "w.safetensors", 1 << 31)})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InvalidRequestError, match=r"2\.1 GB.*--weights copy"):
        saving.save(model, plain_request(out, "embed"))
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("how", ["embed", "copy"])
def test_memory_stays_flat(how: str, tmp_path: Path) -> None:
    size = 96 << 20
    memory = np.lib.format.open_memmap(
        tmp_path / "memory.npy", mode="w+", dtype=np.float32, shape=(size // 4,)
    )
    memory[-1] = 1
    tensors: dict[str, ir.TensorProtocol] = {
        "file": sparse(tmp_path / "w.safetensors", size),
        "memory": TorchTensor(torch.from_numpy(memory), name="memory"),
    }
    out = tmp_path / "out"
    out.mkdir()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    saved = saving.save(graph_of(tensors), plain_request(out, how))
    # The mapped file's own pages count, and no copy of them may.
    assert peak_bytes() - before < size + (64 << 20)
    assert saved.file_bytes >= 2 * size
    session = ort.InferenceSession(str(saved.path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [2]


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_strings_and_scalars_stay_in_the_file(tmp_path: Path) -> None:
    words = ir.StringTensor(np.array([b"word"] * 500, dtype=object), name="words")
    model = graph_of({"one": ir.tensor(np.float32(1), name="one")})
    model.graph.register_initializer(ir.val("words", ir.DataType.STRING, [500], const_value=words))
    path = saving.save(model, plain_request(tmp_path, "copy")).path
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx"}
    assert values(path)["words"].tolist() == ["word"] * 500


# Beside a model


def test_names_beside_a_model() -> None:
    one, two = Path("/c/model.safetensors"), Path("/c/other.safetensors")
    assert placing.names_beside([one], "m") == {one: "m.safetensors"}
    assert placing.names_beside([one, two], "m") == {
        one: "m-00001-of-00002.safetensors",
        two: "m-00002-of-00002.safetensors",
    }
    shards = [Path(f"/c/model-{number:05d}-of-00003.safetensors") for number in (1, 3)]
    assert placing.names_beside(shards, "m") == {
        shards[0]: "m-00001-of-00003.safetensors",
        shards[1]: "m-00003-of-00003.safetensors",
    }
    twice = [Path(f"/{folder}/model-00001-of-00001.safetensors") for folder in "ab"]
    assert placing.names_beside(twice, "m") == {
        twice[0]: "m-00001-of-00002.safetensors",
        twice[1]: "m-00002-of-00002.safetensors",
    }


def test_holes_stay_holes(tmp_path: Path) -> None:
    original, made = tmp_path / "original", tmp_path / "made"
    with original.open("wb") as file:
        for where in (0, 1 << 24, (1 << 25) + 5):
            file.seek(where)
            file.write(os.urandom(100_000))
        file.truncate(1 << 26)
    placing.copy_file(original, made)
    assert made.stat().st_size == 1 << 26
    assert made.stat().st_blocks * 512 < 1 << 22
    with original.open("rb") as one, made.open("rb") as other:
        assert all(one.read(1 << 24) == other.read(1 << 24) for _ in range(4))


def test_empty_and_odd_sizes_are_copied(tmp_path: Path) -> None:
    for size in (0, 1, 4097):
        original, made = tmp_path / f"original{size}", tmp_path / f"made{size}"
        original.write_bytes(os.urandom(size))
        placing.copy_file(original, made)
        assert made.read_bytes() == original.read_bytes()
        with pytest.raises(FileExistsError):
            placing.copy_file(original, made)


@pytest.mark.parametrize("how", ["copy", "link"])
def test_the_hub_s_cache_is_made_of_links(how: str, tmp_path: Path) -> None:
    loaded = checkpoint(tmp_path / "saved", torch.float32)
    blob, name = tmp_path / "0a1b2c", tmp_path / "saved" / "model.safetensors"
    name.replace(blob)
    name.symlink_to(blob)
    loaded = source.load(loaded.source)
    path = export(loaded, tmp_path / "out", how).path
    made = path.with_name("mine.safetensors")
    assert not made.is_symlink()
    assert made.samefile(blob) is (how == "link")
    assert largest_error(path, loaded.module, INPUTS) < 1e-5


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    folder = Path("/dev/shm") / f"autoexport-{os.getpid()}"  # noqa: S108 - another file system is the point
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_link_that_is_refused_becomes_a_copy_and_a_note(tmp_path: Path, elsewhere: Path) -> None:
    loaded = checkpoint(elsewhere / "saved", torch.float32)
    artifact = export(loaded, tmp_path / "out", "link")
    (note,) = artifact.notes
    assert note.startswith("model.safetensors was copied, as it cannot be linked to: ")
    assert artifact.path.with_name("mine.safetensors").stat().st_nlink == 1
    assert largest_error(artifact.path, loaded.module, INPUTS) < 1e-5
