"""The command before it reaches the library: arguments, errors, exit codes, start-up time."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from selector import errors, request
from selector.cli import COMMANDS, EXIT_CODES, exit_code, main
from selector.options import DESCRIPTIONS, parse_arguments, parse_duration, parse_positive
from strategies import registry

if TYPE_CHECKING:
    from tests.conftest import Command

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "rich", "huggingface_hub")
HELP_SECONDS = 0.3


# Start-up


def test_help_answers_within_its_time(root: Path) -> None:
    def seconds() -> float:
        before = os.times()
        command = [sys.executable, "-m", "selector", "--help"]
        subprocess.run(command, check=True, capture_output=True, cwd=root)
        after = os.times()
        return (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )

    # Processor time, the best of a few: what else the machine does must not matter.
    assert min(seconds() for _ in range(3)) < HELP_SECONDS


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_and_version_import_nothing_heavy(root: Path, arguments: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from selector.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None), end.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert ran.stdout
    assert set(HEAVY).isdisjoint(json.loads(ran.stderr))


def test_version_is_that_of_the_package(autoexport: Command) -> None:
    ran = autoexport("--version")
    assert (ran.returncode, ran.stdout) == (0, "autoexport 0.1.0\n")


def test_every_command_is_described() -> None:
    assert list(COMMANDS) == list(DESCRIPTIONS)


def test_help_names_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = set(re.findall(r"\w+", capsys.readouterr().out))
    assert said >= {*registry.BUILTIN, *request.OBJECTIVES, *request.VERIFY_LEVELS}


# Bad requests


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["exprot", "bert"], "'export', 'analyze', 'rank', 'verify', 'inspect', 'retrain'"),
        (["export"], "required: MODEL"),
        (["export", "bert", "--outptu", "x.onnx"], "--outptu"),
        (["export", "bert", "--strategy", "usage_baesd"], "did you mean 'usage_based'?"),
        (["export", "bert", "--strategy", "zzz"], "known: auto, usage_based, htp, fx"),
        (["export", "bert", "--dynamic", "of"], "did you mean 'off'?"),
        (["export", "bert", "--objective", "speed"], "known: time, attempts, latency"),
        (["export", "bert", "--verify", "no"], "known: full, light, off"),
        (["export", "bert", "--time-budget", "soon"], "write 90s, 10m or 1h30m"),
        (["export", "bert", "--attempt-timeout", "0"], "write 90s, 10m or 1h30m"),
        (["export", "bert", "--tolerance", "-1"], "not a positive number"),
        (["export", "bert", "--opset", "new"], "--opset"),
        (["rank", "bert", "--strategy", "hpt"], "did you mean 'htp'?"),
        (["verify", "model.onnx"], "required: --against"),
        (["inspect", "model.onnx", "--depth", "deep"], "--depth"),
        (["retrain", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_bad_request_is_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("autoexport: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_error_is_one_json_object_where_json_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", "bert", "--strategy", "htpp", "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["type"] == "InvalidRequestError"
    assert error["exit_code"] == 2
    assert error["attempts"] == []
    assert error["message"] in err
    assert err.count("\n") == 1


def test_input_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--input", "x=2x3:float32", "--input", "x=2x4:float32"]
    assert main(["analyze", str(tmp_path), *twice]) == 2
    assert "'x' is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--input", "x"], "'x'"),
        (["--input", "x=2x3:float33"], "float33"),
        (["--inputs", "/nowhere/inputs.npz"], "/nowhere/inputs.npz"),
    ],
)
def test_inputs_that_cannot_be_read(
    said: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(tmp_path), *said]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"not an ONNX file"])
def test_inspect_of_no_onnx_file(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    assert main(["inspect", str(file)]) == 1
    assert str(file) in capsys.readouterr().err


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1m1.5s", 61.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "m", "-5s", "1.5h", "10 m", "30m1h", "inf", "1d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "-1e-3", "nan", "inf", "small"])
def test_no_positive_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="positive"):
        parse_positive(text)


@pytest.mark.parametrize(
    ("said", "read"),
    [([], "copy"), (["--weights", "link"], "link"), (["--weights=embed"], "embed")],
)
def test_where_weights_go(said: list[str], read: str) -> None:
    options = parse_arguments(["export", "bert", *said], list(COMMANDS))
    assert options.weights == read
    with pytest.raises(errors.InvalidRequestError, match="link"):
        parse_arguments(["export", "bert", "--weights", "lnk"], list(COMMANDS))


# Exit codes


def kinds(root: type[errors.ExportError]) -> Iterator[type[errors.ExportError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def test_every_error_has_its_exit_code() -> None:
    codes = {kind.__name__: exit_code(kind.__new__(kind)) for kind in kinds(errors.ExportError)}
    assert codes.pop("ExportError") == 1
    assert codes.pop("InvalidRequestError") == 2
    assert codes.pop("ModelLoadError") == 3
    assert (codes.pop("AnalysisError"), codes.pop("RankerError")) == (4, 4)
    assert set(codes.values()) == {5}
    assert "AllStrategiesFailedError" in codes


def test_interruption_has_the_shell_s_codes() -> None:
    codes = {kind.__name__: code for kind, code in EXIT_CODES if not issubclass(kind, Exception)}
    assert codes == {"HungUp": 129, "Terminated": 143, "KeyboardInterrupt": 130}


# Signals


WAIT = """
import signal, sys, time
# Shells start background jobs with SIGINT ignored, nohup ignores SIGHUP; both are inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from selector import cli

def wait(options):
    try:
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("cleaned up", file=sys.stderr, flush=True)

cli.COMMANDS["inspect"] = wait
sys.exit(cli.main(["inspect", "model.onnx", "--json"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ],
)
def test_signal_cleans_up_once_and_says_so(
    root: Path, number: signal.Signals, code: int, word: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert err.splitlines() == ["cleaned up", f"autoexport: {word}"]
    assert json.loads(out)["error"]["exit_code"] == code


def test_signals_ignored_from_the_start_stay_so(root: Path) -> None:
    code = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from selector import cli\n"
        "cli.COMMANDS['inspect'] = lambda _: signal.raise_signal(signal.SIGHUP)\n"
        "raise SystemExit(cli.main(['inspect', 'model.onnx']))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert (ran.returncode, ran.stderr) == (0, "")
