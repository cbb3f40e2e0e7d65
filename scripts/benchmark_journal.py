"""The benchmark's journal: one line of JSON per finished run, so that nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark_plan import Task

Result = dict[str, Any]


class Journal:
    """What has been measured so far, in a file that only grows.

    Args:
        path: The file; made when something is added.
        forget_failures: Whether to act as if what failed had never run.

    Attributes:
        results: What each finished run gave.
        facts: About each model that was made: class, parameters, inputs.
        environment: Of the latest benchmark.
    """

    def __init__(self, path: Path, *, forget_failures: bool = False) -> None:
        self._path = path
        self.results: dict[Task, Result] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.environment: dict[str, Any] = {}
        lines = path.read_text().splitlines() if path.is_file() else []
        for line in lines:
            entry = json.loads(line)
            if not (forget_failures and "error" in entry.get("result", {})):
                self._take(entry)

    def add_run(self, task: Task, result: Result) -> None:
        """Records a finished run."""
        self._add({"task": asdict(task), "result": result})

    def add_facts(self, model: str, facts: dict[str, Any]) -> None:
        """Records what a model is."""
        if self.facts.get(model) != facts:
            self._add({"model": model, "facts": facts})

    def add_environment(self, environment: dict[str, Any]) -> None:
        """Records where the following runs take place."""
        if self.environment != environment:
            self._add({"environment": environment})

    def settled(self, task: Task) -> bool:
        """Whether it has run, or failed in an earlier round: an exporter fails every time."""
        return task in self.results or any(
            "error" in result
            and (done.section, done.model, done.side) == (task.section, task.model, task.side)
            for done, result in self.results.items()
        )

    def rounds(self, section: str, model: str, side: str) -> Iterator[tuple[int, Result]]:
        """The results of one side on one model, by round."""
        for task, result in sorted(self.results.items(), key=lambda item: item[0].round):
            if (task.section, task.model, task.side) == (section, model, side):
                yield task.round, result

    def _add(self, entry: dict[str, Any]) -> None:
        self._take(entry)
        with self._path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _take(self, entry: dict[str, Any]) -> None:
        if "task" in entry:
            self.results[Task(**entry["task"])] = entry["result"]
        elif "facts" in entry:
            self.facts[entry["model"]] = entry["facts"]
        else:
            self.environment = entry["environment"]
