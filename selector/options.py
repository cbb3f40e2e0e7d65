"""The command's arguments: what may be said, and how each value is read."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from selector.errors import InvalidRequestError

DYNAMIC: dict[str, str | bool] = {"auto": "auto", "on": True, "off": False}
DURATION = re.compile(r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")
EPILOG = """\
exit codes:
  0 done   1 other error   2 invalid request   3 model not loaded   4 analysis or ranker
  5 no verified file   130 interrupted   143 terminated
"""


def parse_arguments(arguments: Sequence[str], commands: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `command` in the result is one of `commands`.

    Raises:
        InvalidRequestError: It makes no sense; the message is one line.
        SystemExit: `--help` or `--version` was asked for and printed.
    """
    parser = _Parser(
        prog="autoexport",
        description="Export any PyTorch or transformers model to verified ONNX.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands:
        text, fill = DESCRIPTIONS[name]
        description = f"{text[0].upper()}{text[1:]}."
        fill(subparsers.add_parser(name, help=text, description=description, allow_abbrev=False))
    return parser.parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong, so that it takes the same way out as every other error."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequestError(f"{message}; see `{self.prog} --help`")


class _Version(argparse.Action):
    """Looks the version up only when asked: reading package metadata takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - see above

        sys.stdout.write(f"autoexport {version('autoexport')}\n")
        parser.exit()


# Values


def parse_duration(text: str) -> float:
    """Seconds in `90s`, `10m`, `1h30m` or plain `90`.

    Raises:
        argparse.ArgumentTypeError: It is none of these, or no time at all.
    """
    found = DURATION.fullmatch(text.strip())
    parts = (
        {unit: float(amount or 0) for unit, amount in found.groupdict().items()} if found else {}
    )
    seconds = 3600 * parts["h"] + 60 * parts["m"] + parts["s"] if parts else 0.0
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90s, 10m or 1h30m")
    return seconds


def parse_positive(text: str) -> float:
    """A finite number above zero.

    Raises:
        argparse.ArgumentTypeError: It is not.
    """
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def _one_of(kind: str, known: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    def check(name: str) -> str:
        from strategies.registry import unknown_name_message  # noqa: PLC0415 - see below

        if name not in (names := tuple(known())):
            raise argparse.ArgumentTypeError(unknown_name_message(kind, name, names))
        return name

    return check


# Looked up only when a value is checked: importlib.metadata behind them is slow for --help.


def _strategies() -> tuple[str, ...]:
    from strategies import registry  # noqa: PLC0415 - see above

    return ("auto", *registry.names())


def _objectives() -> tuple[str, ...]:
    from selector.request import OBJECTIVES  # noqa: PLC0415 - see above

    return OBJECTIVES


def _verify_levels() -> tuple[str, ...]:
    from selector.request import VERIFY_LEVELS  # noqa: PLC0415 - see above

    return VERIFY_LEVELS


def _weights() -> tuple[str, ...]:
    from selector.request import WEIGHTS  # noqa: PLC0415 - see above

    return WEIGHTS


# Subcommands


def _export(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="FILE.onnx, or a folder for the file with its config and tokenizer",
    )
    _choice(parser)
    limits = parser.add_argument_group("limits").add_argument
    limits(
        "--time-budget",
        type=parse_duration,
        metavar="TIME",
        help="for everything together: 90s, 10m, 1h30m",
    )
    limits(
        "--attempt-timeout",
        type=parse_duration,
        metavar="TIME",
        help="for one attempt, by default many times what it should take",
    )
    _file(parser)
    _inputs(parser)
    _output(parser)


def _analyze(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _inputs(parser)
    _output(parser)


def _rank(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _choice(parser)
    _inputs(parser)
    _output(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the ONNX file")
    add("--against", required=True, metavar="MODEL", help="what it was exported from")
    _tolerance(parser)
    _inputs(parser)
    _output(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="a file that autoexport wrote")
    add("--depth", type=int, default=3, metavar="N", help="levels below the model to show (3)")
    _output(parser)


def _retrain(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "baselines",
        type=Path,
        nargs="*",
        metavar="BASELINE.json",
        help="what to learn from; the shipped measurements by default",
    )
    add("--with-experience", action="store_true", help="learn from your own exports too")
    add("-o", "--output", type=Path, metavar="PATH", help="the ranker's file; yours by default")
    add("--force", action="store_true", help="replace a ranker in use that is better")
    _output(parser)


DESCRIPTIONS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "export": ("write a verified ONNX file", _export),
    "analyze": ("show what kind of model it is", _analyze),
    "rank": ("show what would be tried, in what order, and why", _rank),
    "verify": ("compare an ONNX file with its PyTorch model", _verify),
    "inspect": ("show the module tree of an ONNX file", _inspect),
    "retrain": ("fit the ranker on baselines", _retrain),
}


# Groups that several subcommands share


def _model(parser: argparse.ArgumentParser) -> None:
    text = "Hub id, checkpoint folder, or a type name with --random-weights"
    parser.add_argument("model", metavar="MODEL", help=text)


def _choice(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to try").add_argument
    add(
        "--strategy",
        type=_one_of("strategy", _strategies),
        default="auto",
        metavar="NAME",
        help="auto, usage_based, htp, fx, or the name of a plug-in",
    )
    add(
        "--dynamic",
        type=_one_of("value of --dynamic", lambda: tuple(DYNAMIC)),
        default="auto",
        metavar="|".join(DYNAMIC),
        help="auto prefers dynamic axes, on accepts nothing less, off asks for fixed ones",
    )
    add(
        "--objective",
        type=_one_of("objective", _objectives),
        default="time",
        metavar="NAME",
        help="what to be good at: time, attempts, latency, size or coverage",
    )
    add("--ranker", type=Path, metavar="FILE", help="a ranker that retrain made")


def _file(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the file").add_argument
    add("--opset", type=int, metavar="N", help="version of the ONNX operator set")
    add(
        "--verify",
        type=_one_of("value of --verify", _verify_levels),
        default="full",
        metavar="full|light|off",
        help="what to compare with PyTorch: the file; its structure, and the numbers of a copy "
        "of the model with few layers and random weights; nothing. The file says which",
    )
    _tolerance(parser)
    add(
        "--weights",
        type=_one_of("value of --weights", _weights),
        default="copy",
        metavar="copy|link|embed",
        help="beside the file as a copy of the checkpoint's own or as hard links, or within it",
    )


def _tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=parse_positive,
        metavar="X",
        help="largest error allowed, relative to an output's magnitude",
    )


def _inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model and its inputs").add_argument
    add("--task", metavar="TASK", help="which head: text-classification and such")
    add("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--random-weights", action="store_true", help="build from the config, load no weights")
    add(
        "--input",
        action="append",
        default=[],
        metavar="NAME=SHAPE:DTYPE",
        help="an example input, such as input_ids=2x16:int64; may be repeated",
    )
    add("--inputs", type=Path, metavar="FILE.npz", help="example inputs with their values")


def _output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print exactly one JSON object")
    add("--quiet", action="store_true", help="no progress; export prints only the file's path")
