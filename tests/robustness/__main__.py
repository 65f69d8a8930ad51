"""`python -m tests.robustness [FOLDER [SUMMARY]]`: a run, its report, status 1 when anything was violated.

The report goes to FOLDER (default `robustness-report`), its Markdown to the file SUMMARY too.

Variables: `ROBUSTNESS_SECONDS` (default 1800), `ROBUSTNESS_SEED` (default by chance, printed at the start),
`ROBUSTNESS_RATE` (requests a second, default 30), `ROBUSTNESS_KEEP` (a folder for data and logs that stays).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.robustness.report import markdown, write
from tests.robustness.run import Options, run


def main() -> int:
    options = Options(
        seconds=float(os.environ.get("ROBUSTNESS_SECONDS", "1800")),
        seed=int(os.environ.get("ROBUSTNESS_SEED") or random.randrange(1, 1_000_000)),
        rate=float(os.environ.get("ROBUSTNESS_RATE", "30")),
    )
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("robustness-report")
    kept = os.environ.get("ROBUSTNESS_KEEP")
    with tempfile.TemporaryDirectory(prefix="robustness-", ignore_cleanup_errors=True) as temporary:
        result = uvloop.run(run(Path(kept or temporary), options))
    write(report, result)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(markdown(result))
    print(f"{len(result.violations)} violations; report in {report}")
    return 1 if result.violations or result.too_slow else 0


if __name__ == "__main__":
    sys.exit(main())
