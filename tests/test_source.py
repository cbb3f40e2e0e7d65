"""Models from the Hub and from folders are found, fetched and checked, or refused in one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selector import checkpoint, source
from selector.errors import InvalidRequestError, ModelLoadError
from tests.conftest import ROOT
from tests.hub_server import HubServer, Repo

_RESOLVE = """
import json, sys, time
from selector import source
from selector.errors import ExportError
start = time.monotonic()
fetched = []
try:
    found = source.resolve(**json.loads(sys.argv[1]), progress=fetched.append)
    said = {
        "name": found.name, "folder": str(found.folder), "commit": found.commit,
        "notes": found.notes, "companions": [p.name for p in source.companion_files(found)],
    }
except ExportError as error:
    said = {"error": type(error).__name__, "message": str(error)}
said["fetched"] = fetched
said["seconds"] = time.monotonic() - start
said["heavy"] = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps(said))
"""

_CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8}

Resolve = Callable[..., dict[str, Any]]


def _safetensors(data: bytes) -> bytes:
    entry = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


_WEIGHTS = _safetensors(bytes(range(256)) * 80)


def _files(**more: bytes) -> dict[str, bytes]:
    names = {"README.md": b"# hello", "tokenizer.json": b"{}", "vocab.txt": b"a\nb\n"}
    return {"config.json": json.dumps(_CONFIG).encode(), **names, **more}


_WHOLE = _files(**{"model.safetensors": _WEIGHTS})


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(repos={"org/tiny": Repo(files=dict(_WHOLE))}) as server:
        yield server


@pytest.fixture
def resolve(hub: HubServer, tmp_path: Path) -> Resolve:
    """Resolves in a process of its own, as the Hub's client reads the environment at import."""

    def run(model: str = "org/tiny", env: dict[str, str] | None = None, **options: Any) -> Any:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        settings = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", _RESOLVE, json.dumps({"model": model, **options})],
            env=clean | settings | (env or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == ""
        said = json.loads(done.stdout)
        assert said["heavy"] == []
        assert "\n" not in said.get("message", "")
        return said

    return run


def test_the_hub_gives_config_first_and_weights_last_in_one_format(
    hub: HubServer, resolve: Resolve
) -> None:
    copies = ("pytorch_model.bin", "tf_model.h5", "model.onnx", "model.gguf", "onnx/model.onnx")
    hub.repos["org/tiny"] = Repo(files=_WHOLE | dict.fromkeys(copies, b"copy"))
    said = resolve()
    assert hub.fetched() == ["config.json", "tokenizer.json", "vocab.txt", "model.safetensors"]
    assert list(dict.fromkeys(said["fetched"])) == hub.fetched()
    assert said["name"] == "tiny"
    assert said["commit"] == Path(said["folder"]).name == "1" * 40
    assert said["companions"] == ["config.json", "tokenizer.json", "vocab.txt"]
    assert Path(said["folder"], "model.safetensors").read_bytes() == _WEIGHTS


def test_what_is_cached_is_not_fetched_again(hub: HubServer, resolve: Resolve) -> None:
    first = resolve()
    hub.seen.clear()
    assert resolve()["folder"] == first["folder"]
    assert [(seen.method, seen.file) for seen in hub.seen] == [
        ("GET", None),
        ("HEAD", "config.json"),
    ]


def test_a_new_commit_is_a_new_snapshot(hub: HubServer, resolve: Resolve) -> None:
    old = resolve()["commit"]
    hub.repos["org/tiny"] = Repo(files=dict(_WHOLE), commit="2" * 40)
    assert resolve()["commit"] == "2" * 40
    hub.repos["org/tiny"] = Repo(files=dict(_WHOLE), commit=old)
    assert resolve(revision=old)["commit"] == old


def test_random_weights_fetch_no_weights(hub: HubServer, resolve: Resolve) -> None:
    said = resolve(random_weights=True)
    assert hub.fetched() == ["config.json", "tokenizer.json", "vocab.txt"]
    assert said["commit"] == "1" * 40


@pytest.mark.parametrize(
    ("entry", "shard"),
    [
        ("model.safetensors.index.json", "model-{}-of-2.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-{}-of-2.bin"),
    ],
)
def test_shards_are_found_by_their_index(
    entry: str, shard: str, hub: HubServer, resolve: Resolve
) -> None:
    one, two = shard.format(1), shard.format(2)
    index = json.dumps({"weight_map": {"a": one, "b": two}}).encode()
    hub.repos["org/tiny"] = Repo(
        files=_files(**{entry: index, two: _WEIGHTS, one: _safetensors(bytes(4))})
    )
    resolve()
    assert hub.fetched()[-3:] == [entry, one, two]


def test_a_busy_hub_is_asked_again(hub: HubServer, resolve: Resolve) -> None:
    hub.refusals = [(503, {}), (503, {})]
    said = resolve()
    assert said["commit"] == "1" * 40
    listings = [seen for seen in hub.seen if seen.path.startswith("/api/")]
    assert len(listings) == 3
    assert said["seconds"] < 10


def test_the_wait_that_the_hub_asks_for_is_kept(hub: HubServer, resolve: Resolve) -> None:
    hub.refusals = [(429, {"Retry-After": "1"})]
    said = resolve()
    assert said["commit"] == "1" * 40
    assert 1 <= said["seconds"] < 10


def test_a_wait_too_long_to_keep_is_told(hub: HubServer, resolve: Resolve) -> None:
    hub.refusals = [(429, {"Retry-After": "3600"})]
    said = resolve()
    assert said["error"] == "ModelLoadError"
    assert "429" in said["message"]
    assert "3600 s" in said["message"]
    assert len(hub.seen) == 1


def test_a_hub_that_stays_down_is_given_up(hub: HubServer, resolve: Resolve) -> None:
    hub.refusals = [(500, {})] * 50
    said = resolve()
    assert said["error"] == "ModelLoadError"
    assert "500" in said["message"]
    assert len(hub.seen) == 5
    assert said["seconds"] < 15


def _byte_requests(hub: HubServer) -> list[str | None]:
    """The Range of each request for the weights' bytes."""
    return [seen.range for seen in hub.seen if seen.path.startswith("/store/")]


def test_a_download_cut_in_half_goes_on_where_it_ended(hub: HubServer, resolve: Resolve) -> None:
    # The client writes in chunks of 10 MiB, so only whole ones survive the cut.
    weights = _safetensors(bytes(range(256)) * (25 << 12))
    hub.repos["org/tiny"] = Repo(files=_files(**{"model.safetensors": weights}))
    hub.cuts = {"model.safetensors": 1}
    said = resolve()
    assert Path(said["folder"], "model.safetensors").read_bytes() == weights
    assert _byte_requests(hub) == [None, f"bytes={10 << 20}-"]


def test_a_connection_reset_or_a_busy_store_is_tried_again(
    hub: HubServer, resolve: Resolve
) -> None:
    hub.cuts, hub.reset, hub.busy = {"model.safetensors": 1}, True, {"model.safetensors": 2}
    said = resolve()
    assert Path(said["folder"], "model.safetensors").read_bytes() == _WEIGHTS
    assert _byte_requests(hub) == [None] * 4


def test_a_gated_model_is_told_and_not_asked_for_again(hub: HubServer, resolve: Resolve) -> None:
    hub.repos["org/tiny"] = Repo(files=dict(_WHOLE), gated_token="hf_good")  # noqa: S106 - a fake
    said = resolve()
    assert said["error"] == "ModelLoadError"
    assert "gated" in said["message"]
    assert "licence" in said["message"]
    assert "HF_TOKEN" in said["message"]
    assert [seen.file for seen in hub.seen] == [None, "config.json"]
    assert "gated" in resolve(token="hf_bad")["message"]  # noqa: S106 - a fake


@pytest.mark.parametrize("how", [{"token": "hf_good"}, {"env": {"HF_TOKEN": "hf_good"}}])
def test_a_token_opens_a_gated_model(how: Any, hub: HubServer, resolve: Resolve) -> None:
    hub.repos["org/tiny"] = Repo(files=dict(_WHOLE), gated_token="hf_good")  # noqa: S106 - a fake
    assert resolve(**how)["commit"] == "1" * 40
    assert {seen.token for seen in hub.seen if not seen.path.startswith("/store/")} == {"hf_good"}
    # The store is another host, to which the token must not leak.
    assert {seen.token for seen in hub.seen if seen.path.startswith("/store/")} == {None}


def test_an_unknown_model_costs_one_request(hub: HubServer, resolve: Resolve) -> None:
    said = resolve("org/missing")
    assert said["error"] == "ModelLoadError"
    assert said["message"].startswith("no such model: 'org/missing' is neither a folder here")
    assert hub.url in said["message"]
    assert len(hub.seen) == 1
    assert "random_weights" in resolve("brt")["message"]


def test_an_unknown_revision_is_named(hub: HubServer, resolve: Resolve) -> None:
    said = resolve(revision="v9")
    assert said["error"] == "ModelLoadError"
    assert "no revision 'v9'" in said["message"]
    assert len(hub.seen) == 1


def test_a_refused_token_is_told(hub: HubServer, resolve: Resolve) -> None:
    hub.refusals = [(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]
    said = resolve(token="hf_bad")  # noqa: S106 - a fake
    assert said["error"] == "ModelLoadError"
    assert "token" in said["message"]
    assert len(hub.seen) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.gguf", "model.gguf, which cannot be read"),
        ("model_index.json", "diffusers"),
        ("adapter_config.json", "adapter"),
    ],
)
def test_a_repository_without_a_checkpoint_says_what_it_is(
    name: str, words: str, hub: HubServer, resolve: Resolve
) -> None:
    files = _files() if name.endswith("gguf") else {}
    hub.repos["org/tiny"] = Repo(files=files | {name: b"{}"})
    said = resolve()
    assert said["error"] == "ModelLoadError"
    assert words in said["message"]


def test_offline_uses_the_cache_and_asks_nobody(hub: HubServer, resolve: Resolve) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    missing = resolve(env=offline)
    assert missing["error"] == "ModelLoadError"
    assert "HF_HUB_OFFLINE" in missing["message"]
    online = resolve()
    hub.seen.clear()
    assert resolve(env=offline)["folder"] == online["folder"]
    assert hub.seen == []


def test_offline_with_half_a_model_names_what_is_missing(hub: HubServer, resolve: Resolve) -> None:
    resolve(random_weights=True)
    said = resolve(env={"HF_HUB_OFFLINE": "1"})
    assert said["error"] == "ModelLoadError"
    assert "no model.safetensors" in said["message"]


def test_no_network_is_told_unless_the_cache_has_the_model(
    hub: HubServer, resolve: Resolve
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = {"HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}"}
        said = resolve(env=nobody)
        assert said["error"] == "ModelLoadError"
        assert "cannot be reached" in said["message"]
        assert "local folder" in said["message"]
        assert said["seconds"] < 15
        online = resolve()
        cached = resolve(env=nobody)
    assert cached["folder"] == online["folder"]
    assert "could not be reached" in cached["notes"][0]


def test_a_cache_that_cannot_be_written_is_named(
    hub: HubServer, resolve: Resolve, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    said = resolve(env={"HF_HOME": str(tmp_path / "taken")})
    assert said["error"] == "ModelLoadError"
    assert str(tmp_path / "taken") in said["message"]


def test_an_endpoint_that_is_no_hub_is_named(hub: HubServer, resolve: Resolve) -> None:
    said = resolve(env={"HF_ENDPOINT": "hub.example"})
    assert said["error"] == "ModelLoadError"
    assert "hub.example cannot be reached" in said["message"]
    assert "HF_ENDPOINT" in said["message"]


def test_broken_weights_at_the_hub_are_named(hub: HubServer, resolve: Resolve) -> None:
    hub.repos["org/tiny"] = Repo(files=_files(**{"model.safetensors": _WEIGHTS[:-40]}))
    said = resolve()
    assert said["error"] == "ModelLoadError"
    assert "model.safetensors is truncated" in said["message"]


def _folder(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "my model", **_WHOLE)
    found = source.resolve(folder)
    assert (found.kind, found.name, found.folder) == ("folder", "my_model", folder)
    assert found == source.resolve(str(folder))
    names = [path.name for path in source.companion_files(found)]
    assert names == ["config.json", "tokenizer.json", "vocab.txt"]


_INDEX = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": b""}, "cannot be read as JSON"),
        ({"config.json": b"[]"}, "no JSON object"),
        ({"config.json": b"{}"}, "no model_type"),
        ({"config.json": None}, "has no config.json"),
        ({"model.safetensors": None}, "--random-weights"),
        ({"model.safetensors": b""}, "model.safetensors is truncated"),
        ({"model.safetensors": _WEIGHTS[:6]}, "model.safetensors is truncated"),
        ({"model.safetensors": _WEIGHTS[:50]}, "model.safetensors is truncated"),
        ({"model.safetensors": _WEIGHTS[:-1]}, "model.safetensors is truncated"),
        ({"model.safetensors": _WEIGHTS + b"0"}, "model.safetensors is damaged"),
        ({"model.safetensors": b"\x20" + bytes(200)}, "header is damaged"),
        ({"model.safetensors": b"not what it says" * 9}, "not a safetensors file"),
        (
            {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid x\n"},
            "git lfs pull",
        ),
        (
            {"model.safetensors": None, "model.safetensors.index.json": b"{}"},
            "no weight_map",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": _INDEX,
                "one.safetensors": _WEIGHTS,
            },
            "two.safetensors is missing",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": _INDEX,
                "one.safetensors": _WEIGHTS,
                "two.safetensors": _WEIGHTS[:-1],
            },
            "two.safetensors is truncated",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": b'{"weight_map": {"a": "../other"}}',
            },
            "points out of its folder",
        ),
        ({"model.safetensors": None, "pytorch_model.bin": b""}, "pytorch_model.bin is truncated"),
        (
            {"model.safetensors": None, "pytorch_model.bin": b"PK\x03\x04 and no end"},
            "pytorch_model.bin is truncated",
        ),
        ({"model.safetensors": None, "model.gguf": b"x"}, "model.gguf, which cannot be read"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(
    files: dict[str, bytes | None], words: str, tmp_path: Path
) -> None:
    kept = {name: data for name, data in (_WHOLE | files).items() if data is not None}
    folder = _folder(tmp_path / "broken", **kept)
    with pytest.raises(ModelLoadError) as caught:
        source.resolve(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_serves_random_ones(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "empty", **_files())
    assert source.resolve(folder, random_weights=True).random_weights


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("./not/here", {}, "no such folder"),
        ("a/b/c", {}, "no such folder"),
        ("", {}, "no such folder"),
        ("x" * 5000, {}, "no such folder"),
        (Path("nowhere"), {}, "no such folder: 'nowhere'"),
        (Path(__file__), {}, "is a file; pass the folder"),
    ],
)
def test_what_is_neither_folder_nor_id_is_refused(
    model: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        source.resolve(model, **options)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (ROOT, {"revision": "main"}, "revision is for Hub ids, not for a folder"),
        ("bert", {"revision": "main", "random_weights": True}, "not for a type name"),
        ("bert", {"task": "fil-mask"}, "did you mean 'fill-mask'"),
        (3, {}, "must be a Hub id, a folder or an nn.Module; got 3"),
        (dict, {}, "an instance and not the class"),
    ],
)
def test_contradictions_are_refused(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        source.resolve(model, **options)


def test_tensors_of_a_shard_tell_their_dtype(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "saved", **_WHOLE)
    assert checkpoint.stored_dtypes(folder, _CONFIG) == {"float32"}
