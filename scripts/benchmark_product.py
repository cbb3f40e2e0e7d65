"""One call of `auto_export` as users make it, with its own processes, measured when warm.

python -m scripts.benchmark_product ORDER.json RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from scripts.benchmark_meter import Cost, tree_cpu_seconds
from selector import ExportError, auto_export
from strategies.base import MODEL_FILE, first_line


def main() -> None:
    """Warms the host process up, exports, and writes what the export cost in all processes."""
    order = json.loads(Path(sys.argv[1]).read_text())
    # After a first export the host has imported what it keeps ready.
    auto_export(order["tiny"], Path(order["out"]) / "tiny.onnx", verify=order["verify"])
    result: dict[str, Any] = {}
    cpu, clock = tree_cpu_seconds(), time.perf_counter()
    try:
        exported = auto_export(
            order["checkpoint"], Path(order["out"]) / MODEL_FILE, verify=order["verify"]
        )
    except ExportError as error:
        traceback.print_exc()
        result["error"] = first_line(error)
    else:
        wall = time.perf_counter() - clock
        spent = Cost(cpu=tree_cpu_seconds() - cpu, wall=wall, peak=None)
        report = exported.verification
        result = {
            "export": spent.as_dict(),
            "candidate": str(exported.candidate),
            "attempts": [str(attempt) for attempt in exported.attempts],
            "attempt_peak": max(attempt.peak_rss_bytes for attempt in exported.attempts),
            "verified": report.ok,
            "cases": [{"label": case.label, "sizes": dict(case.sizes)} for case in report.cases],
            "timings": dict(exported.timings),
            "verification_seconds": report.seconds,
            "nodes": exported.hierarchy.nodes,
        }
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
