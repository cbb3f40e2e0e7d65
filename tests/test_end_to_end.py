"""The command as a user meets it: a model in, a verified file out, and all that can go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from scripts.plain_modules import PLAIN
from scripts.zoo import tiny_model
from selector import (
    AllStrategiesFailedError,
    InvalidRequestError,
    auto_export,
    rank,
    read_hierarchy,
    verify,
)
from tests.conftest import ROOT, Command
from tests.exporting import largest_error
from tests.hub_server import HubServer, Repo

TOKENIZER = {"tokenizer_class": "BertTokenizer"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with weights of its own and a file of its tokenizer's."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    model: Any = tiny_model("bert", seed=3)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return folder


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, autoexport: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint exported to a folder by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("out") / "bert"
    done = autoexport("export", checkpoint, "-o", folder, "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return folder, printed


# The way it goes right


def test_a_checkpoint_becomes_a_folder_that_runtimes_load(
    exported: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = exported
    assert {file.name for file in folder.iterdir()} == {
        "model.onnx",
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
    }
    assert printed["path"] == str(folder / "model.onnx")
    assert printed["verification"]["ok"] is True
    assert printed["attempts"][-1]["outcome"] == "succeeded"


def test_the_file_gives_eagers_numbers_at_any_size(
    exported: tuple[Path, dict[str, Any]],
) -> None:
    model = tiny_model("bert", seed=3)
    for batch, length in ((1, 5), (4, 9)):
        inputs = {
            "input_ids": torch.randint(5, 50, (batch, length)),
            "attention_mask": torch.ones(batch, length, dtype=torch.int64),
            "token_type_ids": torch.zeros(batch, length, dtype=torch.int64),
        }
        assert largest_error(exported[0] / "model.onnx", model, inputs) < 1e-5


def test_the_file_says_what_it_is(exported: tuple[Path, dict[str, Any]]) -> None:
    model = onnx.load(exported[0] / "model.onnx")
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert entries["autoexport.source"] == "tiny-bert"
    assert entries["autoexport.schema"] == "1"
    assert f"torch {torch.__version__.split('+')[0]}" in entries["autoexport.versions"]
    assert json.loads(entries["autoexport.verification"])["ok"] is True
    session = ort.InferenceSession(model.SerializeToString())
    kept = session.get_modelmeta().custom_metadata_map
    assert kept["autoexport.strategy"] == entries["autoexport.strategy"]


def test_inspect_verify_rank_and_analyze_speak_of_the_same_model(
    exported: tuple[Path, dict[str, Any]], checkpoint: Path, autoexport: Command
) -> None:
    file = exported[0] / "model.onnx"
    shown = autoexport("inspect", file)
    assert "BertEncoder" in shown.stdout
    checked = autoexport("verify", file, "--against", checkpoint, "--json")
    assert (checked.returncode, json.loads(checked.stdout)["ok"]) == (0, True)
    ranked = json.loads(autoexport("rank", checkpoint, "--json").stdout)
    names = [item["candidate"]["strategy"] for item in ranked["order"]]
    assert sorted(set(names)) == ["fx", "htp", "usage_based"]
    assert all(item["reasons"] for item in ranked["order"])
    features = json.loads(autoexport("analyze", checkpoint, "--json").stdout)
    assert (features["family"], features["model_type"]) == ("encoder", "bert")


def test_verify_refuses_another_models_file(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path, autoexport: Command
) -> None:
    other: Any = tiny_model("bert", seed=4)
    other.save_pretrained(tmp_path / "other")
    done = autoexport("verify", exported[0] / "model.onnx", "--against", tmp_path / "other")
    assert done.returncode == 5
    assert "wrong" in done.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_failures_are_told_once_with_the_next_step(
    checkpoint: Path, tmp_path: Path, autoexport: Command, *, quiet: bool
) -> None:
    done = autoexport(
        *("export", checkpoint, "-o", tmp_path / "x.onnx", "--strategy", "usage_based"),
        *("--dynamic", "on", "--tolerance", "1e-30", *(["--quiet"] if quiet else [])),
    )
    assert done.returncode == 5
    lines = done.stderr.splitlines()
    assert sum("beyond the tolerance" in line for line in lines) == 2
    assert lines[-2].startswith("  --strategy auto")
    assert lines[-1].startswith("  --dynamic auto")
    assert len(lines) == 5 if quiet else lines[-3].endswith("in 2 attempts")
    assert list(tmp_path.iterdir()) == []


def test_a_model_comes_from_the_hub(checkpoint: Path, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    with HubServer({"org/tiny": Repo(files)}) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-m", "selector", "export", "org/tiny", "-o", tmp_path / "x.onnx"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    entries = {e.key: e.value for e in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert entries["autoexport.source"] == "org/tiny"
    assert entries["autoexport.revision"] == "1" * 40


@pytest.mark.parametrize("name", ["branch", "loop"])
def test_control_flow_on_values_is_kept(name: str, tmp_path: Path) -> None:
    module, inputs = PLAIN[name]()
    result = auto_export(module, tmp_path / "model.onnx", inputs=inputs)
    assert {"If", "Loop"} & {node.op_type for node in onnx.load(result.path).graph.node}
    for sign in (1, -1):
        for count in (0, 1, 5):
            changed = {
                key: torch.full_like(value, count) if value.dtype == torch.int64 else sign * value
                for key, value in inputs.items()
            }
            assert largest_error(result.path, module, changed) < 1e-4


def test_dynamic_off_gives_a_static_file(tmp_path: Path) -> None:
    module, inputs = PLAIN["mlp"]()
    result = auto_export(module, tmp_path / "model.onnx", inputs=inputs, dynamic=False)
    shape = onnx.load(result.path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == list(next(iter(inputs.values())).shape)


def test_verify_off_is_written_into_the_file_and_the_result(tmp_path: Path) -> None:
    module, inputs = PLAIN["mlp"]()
    result = auto_export(module, tmp_path / "model.onnx", inputs=inputs, verify="off")
    assert result.verification.level == "off"
    assert any("not verified" in note for note in result.notes)
    entries = {e.key: e.value for e in onnx.load(result.path).metadata_props}
    assert json.loads(entries["autoexport.verification"])["level"] == "off"


def test_weights_lie_beside_the_file_or_in_it(tmp_path: Path) -> None:
    module, inputs = torch.nn.Linear(64, 64).eval(), {"input": torch.randn(2, 64)}
    target = tmp_path / "linear.onnx"
    for weights, files in (("copy", 2), ("link", 2), ("embed", 1)):
        result = auto_export(module, target, inputs=inputs, weights=weights)
        found = list(tmp_path.iterdir())
        assert len(found) == files
        assert 0 <= sum(file.stat().st_size for file in found) - result.file_bytes < 4096
        assert largest_error(target, module, inputs) < 1e-5


def test_library_and_file_agree(tmp_path: Path) -> None:
    module, inputs = PLAIN["shared"]()
    result = auto_export(module, tmp_path / "model.onnx", inputs=inputs)
    assert read_hierarchy(result.path) == result.hierarchy
    assert verify(result.path, module, inputs=inputs).ok
    ranking = rank(module, inputs=inputs)
    tried = [attempt.candidate for attempt in result.attempts]
    assert tried == [ranked.candidate for ranked in ranking.order][: len(tried)]


def test_progress_tells_every_stage(tmp_path: Path) -> None:
    module, inputs = PLAIN["mlp"]()
    seen: list[str] = []
    auto_export(
        module, tmp_path / "m.onnx", inputs=inputs, progress=lambda event: seen.append(event.stage)
    )
    assert list(dict.fromkeys(seen)) == ["source", "load", "study", "export", "attempt"]


# The ways it goes wrong


def expect_refusal(
    autoexport: Command, tmp_path: Path, *arguments: str | Path, code: int, words: str
) -> None:
    target = tmp_path / "target.onnx"
    done = autoexport("export", *arguments, "-o", target)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("autoexport: error: ")
    assert words in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not target.exists()
    assert list(tmp_path.glob(".autoexport*")) == []


def test_a_truncated_checkpoint(checkpoint: Path, tmp_path: Path, autoexport: Command) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    expect_refusal(autoexport, tmp_path, folder, code=3, words="model.safetensors")


def test_a_folder_without_config(tmp_path: Path, autoexport: Command) -> None:
    (tmp_path / "empty").mkdir()
    expect_refusal(autoexport, tmp_path, tmp_path / "empty", code=3, words="config.json")


def test_a_config_of_an_unknown_type(tmp_path: Path, autoexport: Command) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no-such-type"}')
    expect_refusal(
        autoexport, tmp_path, tmp_path / "odd", "--random-weights", code=3, words="no-such-type"
    )


def test_a_type_name_with_a_typo(tmp_path: Path, autoexport: Command) -> None:
    expect_refusal(autoexport, tmp_path, "berd", "--random-weights", code=3, words="bert")


def test_an_unknown_strategy(checkpoint: Path, tmp_path: Path, autoexport: Command) -> None:
    expect_refusal(
        autoexport, tmp_path, checkpoint, "--strategy", "usage-based", code=2,
        words="did you mean 'usage_based'",
    )  # fmt: skip


def test_contradictory_options(checkpoint: Path, tmp_path: Path, autoexport: Command) -> None:
    expect_refusal(
        autoexport, tmp_path, checkpoint, "--verify", "off", "--tolerance", "0.1", code=2,
        words="tolerance",
    )  # fmt: skip


def test_inputs_that_do_not_fit(checkpoint: Path, tmp_path: Path, autoexport: Command) -> None:
    expect_refusal(
        autoexport, tmp_path, checkpoint, "--input", "input_idz=2x8:int64", code=2,
        words="did you mean 'input_ids'",
    )  # fmt: skip
    expect_refusal(
        autoexport, tmp_path, checkpoint, "--input", "input_ids=2x8x4:int64", code=2,
        words="input_ids",
    )  # fmt: skip


def test_an_output_that_cannot_be_written(checkpoint: Path, autoexport: Command) -> None:
    done = autoexport("export", checkpoint, "-o", "/no/such/folder/model.onnx")
    assert done.returncode == 2
    assert "does not exist" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [(404, {"X-Error-Code": "RepoNotFound"}, "no/model"), (401, {}, "token")],
)
def test_what_the_hub_refuses(
    status: int, headers: dict[str, str], words: str, tmp_path: Path
) -> None:
    with HubServer({}) as hub:
        hub.refusals.extend([(status, headers)] * 3)
        done = _export_from(hub.url, tmp_path)
    assert done.returncode == 3
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x.onnx").exists()


def test_no_network(tmp_path: Path) -> None:
    done = _export_from("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]


def _export_from(url: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selector", "export", "no/model", "-o", tmp_path / "x.onnx"],
        env=os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_no_strategy_can_export(tmp_path: Path) -> None:
    class Hopeless(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.linalg.pinv(x.detach().numpy())).sum() * x

    with pytest.raises(AllStrategiesFailedError) as caught:
        auto_export(Hopeless(), tmp_path / "x.onnx", inputs={"x": torch.randn(3, 3)})
    assert len(caught.value.attempts) >= 3
    assert list(tmp_path.iterdir()) == []


class Chunks(torch.nn.Module):
    """Goes through its input in pieces of 64, so that up to there one piece is all there is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x[:, :1])
        for start in range(0, x.shape[1], 64):
            total = total + x[:, start : start + 64].sum(1, keepdim=True)
        return total


@pytest.mark.parametrize("strategy", ["usage_based", "htp", "fx"])
def test_a_loop_over_chunks_is_not_taken_for_dynamic(strategy: str, tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    result = auto_export(Chunks(), file, inputs={"x": torch.randn(2, 11)}, strategy=strategy)
    x = np.ones((2, 100), dtype=np.float32)
    session = ort.InferenceSession(file)
    if result.candidate.dynamic:
        (found,) = session.run(None, {"x": x})
        np.testing.assert_allclose(found, 100.0)
    else:
        assert session.get_inputs()[0].shape == [2, 11]


def test_dynamic_axes_insisted_on_where_none_may_vary(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 3)

    with pytest.raises(InvalidRequestError, match="no axis"):
        auto_export(Fixed(), tmp_path / "x.onnx", inputs={"x": torch.randn(2, 3)}, dynamic=True)


# Interruptions

SLOW_EXPORT = """
import sys, torch
from selector import auto_export
module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(20)))
print("started", flush=True)
auto_export(module, sys.argv[1], inputs=(torch.randn(2, 8),))
print("done", flush=True)
"""


def start_export(target: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPORT, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "started\n"
    return started


def seconds_of_an_export(folder: Path) -> float:
    begun = time.monotonic()
    with start_export(folder / "whole.onnx") as process:
        process.wait()
    return time.monotonic() - begun


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_killed_at_any_moment_there_is_the_old_file_or_none(tmp_path: Path) -> None:
    whole = seconds_of_an_export(tmp_path)
    whole_file = read_hierarchy(tmp_path / "whole.onnx")
    outcomes = []
    for moment in range(20):
        folder = tmp_path / str(moment)
        folder.mkdir()
        target = folder / "model.onnx"
        if moment % 2:
            target.write_bytes(b"the old file")
        process = start_export(target)
        time.sleep(whole * moment / 20)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert wait_for(lambda folder=folder: not list(folder.glob(".autoexport*")))  # type: ignore[misc]  # bound per round
        content = target.read_bytes() if target.exists() else None
        outcomes.append(content)
        if content not in (None, b"the old file"):
            onnx.checker.check_model(target)
            assert read_hierarchy(target).nodes == whole_file.nodes
    # Kills must have met the export before its end, or the test shows nothing; how many do
    # depends on how much slower the first export was than the others.
    assert outcomes[0] is None
    assert outcomes[1] == b"the old file"
    assert sum(content in (None, b"the old file") for content in outcomes) > 4


# Shells start background jobs with SIGINT ignored, and what they run inherits that.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from selector.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0])
def test_ctrl_c_stops_within_a_second_and_leaves_nothing(
    seconds: float, checkpoint: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "export", checkpoint, "-o", tmp_path / "model.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("source:")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=30)
    took = time.monotonic() - sent
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "autoexport: interrupted"
    assert "Traceback" not in errors
    assert took < 1.0
    assert list(tmp_path.iterdir()) == []
