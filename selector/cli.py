"""The `autoexport` command: arguments to one library call to one error-to-exit-code map."""

from __future__ import annotations

import atexit
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from selector.errors import (
    AllStrategiesFailedError,
    AnalysisError,
    ExportError,
    InvalidRequestError,
    ModelLoadError,
    RankerError,
    StrategyError,
)
from selector.options import DYNAMIC, parse_arguments

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends everything as Ctrl-C does, so that everything is cleaned up."""


class HungUp(Terminated):
    """The terminal went away."""


EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InvalidRequestError, 2),
    (ModelLoadError, 3),
    (AnalysisError, 4),
    (RankerError, 4),
    (AllStrategiesFailedError, 5),
    (StrategyError, 5),
    (ExportError, 1),
    (HungUp, 128 + signal.SIGHUP),
    (Terminated, 128 + signal.SIGTERM),
    (KeyboardInterrupt, 128 + signal.SIGINT),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Those after the program's name; by default the process's own.

    Returns:
        The exit code, see `EXIT_CODES`.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options: argparse.Namespace | None = None
    # When Python ends it looks for garbage in everything that was ever imported.
    atexit.register(gc.freeze)
    try:
        with _signals_raise():
            options = parse_arguments(given, list(COMMANDS))
            COMMANDS[options.command](options)
    except (ExportError, KeyboardInterrupt) as error:
        return _report_error(error, options, as_json="--json" in given)
    return 0


def exit_code(error: BaseException) -> int:
    """The code of the first kind in `EXIT_CODES` that the error is one of."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _report_error(
    error: BaseException, options: argparse.Namespace | None, *, as_json: bool
) -> int:
    code = exit_code(error)
    message = str(error) if isinstance(error, KeyboardInterrupt) else f"error: {error}"
    if isinstance(error, AllStrategiesFailedError) and options is not None:
        message = "\n".join(_failure_lines(error, options, message))
    else:
        message = " ".join(message.split())
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"autoexport: {message}\n")
    if as_json:
        from selector import report  # noqa: PLC0415 - rich, which --help must not pay for

        _print(report.dumps(report.error_to_json(error, code)))
    return code


def _failure_lines(
    error: AllStrategiesFailedError, options: argparse.Namespace, message: str
) -> Iterator[str]:
    """That nothing helped, each attempt if none was shown as it ended, and what to try next."""
    first, *attempts = message.splitlines()
    yield first
    if options.quiet:
        yield from attempts
    if options.strategy != "auto":
        yield "  --strategy auto tries the other strategies too"
    if DYNAMIC[options.dynamic] is True:
        yield "  --dynamic auto takes a file with fixed shapes where none is right at other sizes"
    if any(attempt.outcome == "timeout" for attempt in error.attempts):
        yield "  --attempt-timeout TIME gives each attempt longer"


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turns the signals that ask a process to end into exceptions while the command runs."""
    errors = {
        signal.SIGINT: KeyboardInterrupt("interrupted"),
        signal.SIGTERM: Terminated("terminated"),
        signal.SIGHUP: HungUp("hung up"),
    }

    # What was ignored from the start stays so: nohup, and background jobs in scripts.
    before = {
        number: handler
        for number in errors
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }

    def stop(number: int, _frame: object) -> NoReturn:
        # One is enough: an impatient second must not cut the cleaning up short.
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise errors[signal.Signals(number)]

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# One function per subcommand


def _export(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    arguments = _model_arguments(options)
    with _progress(options) as progress:
        result = selector.auto_export(
            options.model,
            options.output,
            strategy=options.strategy,
            dynamic=DYNAMIC[options.dynamic],
            objective=options.objective,
            opset=options.opset,
            tolerance=options.tolerance,
            verify=options.verify,
            time_budget=options.time_budget,
            attempt_timeout=options.attempt_timeout,
            weights=options.weights,
            ranker=options.ranker,
            progress=progress,
            **arguments,
        )
    if options.quiet and not options.json:
        _print(str(result.path))
    else:
        _show(options, result, "render_export")


def _analyze(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    arguments = _model_arguments(options)
    with _progress(options) as progress:
        features = selector.analyze(options.model, progress=progress, **arguments)
    _show(options, features, "render_features")


def _rank(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    arguments = _model_arguments(options)
    with _progress(options) as progress:
        ranking = selector.rank(
            options.model,
            strategy=options.strategy,
            dynamic=DYNAMIC[options.dynamic],
            objective=options.objective,
            ranker=options.ranker,
            progress=progress,
            **arguments,
        )
    _show(options, ranking, "render_ranking")


def _verify(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    arguments = _model_arguments(options)
    with _progress(options) as progress:
        report = selector.verify(
            options.file,
            options.against,
            tolerance=options.tolerance,
            progress=progress,
            **arguments,
        )
    _show(options, report, "render_verification")


def _inspect(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    hierarchy = selector.read_hierarchy(options.file)
    _show(options, hierarchy, "render_hierarchy", depth=options.depth)


def _retrain(options: argparse.Namespace) -> None:
    import selector  # noqa: PLC0415 - lazy, for a quick --help

    card = selector.retrain(
        options.baselines,
        options.output,
        with_experience=options.with_experience,
        force=options.force,
    )
    _show(options, card, "render_card")


def _model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    from strategies.isolation import warm_host  # noqa: PLC0415 - lazy, for a quick --help

    # It imports torch for seconds, while this process imports the rest of itself.
    warm_host()
    return {
        "task": options.task,
        "inputs": _given_inputs(options) or None,
        "revision": options.revision,
        "trust_remote_code": options.trust_remote_code,
        "random_weights": options.random_weights,
    }


def _given_inputs(options: argparse.Namespace) -> dict[str, Any]:
    """What `--inputs` and `--input` say, each name once.

    Raises:
        InvalidRequestError: A file or option cannot be read, or names an input again.
    """
    if not options.inputs and not options.input:
        return {}
    from selector.input_options import (  # noqa: PLC0415 - only where wanted
        load_npz,
        parse_input_option,
    )

    given: dict[str, Any] = dict(load_npz(options.inputs)) if options.inputs else {}
    for text in options.input:
        name, value = parse_input_option(text)
        if name in given:
            raise InvalidRequestError(f"input {name!r} is given twice; leave one of them out")
        given[name] = value
    return given


# Output


@contextlib.contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Callable[[Any], None] | None]:
    if options.quiet:
        yield None
        return
    from selector.terminal import progress_on_stderr  # noqa: PLC0415 - rich, only where wanted

    with progress_on_stderr() as show:
        yield show


def _show(options: argparse.Namespace, result: object, view: str, **details: Any) -> None:
    from selector import report  # noqa: PLC0415 - rich, only where wanted

    if options.json:
        _print(report.dumps(report.to_json(result)))
    else:
        _print(getattr(report, view)(result, **details))


def _print(result: RenderableType) -> None:
    from selector.terminal import ResultConsole  # noqa: PLC0415 - rich, only where wanted

    console = ResultConsole()
    if isinstance(result, str):
        console.out(result)
    else:
        console.print(result)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "export": _export,
    "analyze": _analyze,
    "rank": _rank,
    "verify": _verify,
    "inspect": _inspect,
    "retrain": _retrain,
}
