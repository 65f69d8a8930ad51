"""`supervisor.py DATA`: what `trade2026 up` runs, over shell scripts in place of the servers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from services.runtime.local_stack import Health, Part, foreground, questdb_jar
from services.runtime.local_stack.assembly import StackOptions
from services.runtime.local_stack.part import HEALTHY, not_ready
from trade2026.cli.main import _say


class Script(Part):
    """Ready at once; tells in a file that it was asked to end."""

    def command(self) -> Sequence[str]:
        script = "trap 'echo asked > ended; exit 0' TERM; touch ready; while true; do sleep 0.05; done"
        return ["sh", "-c", script]

    def probe(self) -> Health:
        return HEALTHY if (self.folder / "ready").exists() else not_ready("no file")


def main() -> int:
    data = Path(sys.argv[1])
    stages = [[Script(name, data / name, {})] for name in ("first", "second")]
    with (
        mock.patch.object(foreground, "assemble", return_value=stages),
        mock.patch.object(questdb_jar, "resolve"),
    ):
        return foreground.run(StackOptions(data), _say)


if __name__ == "__main__":
    sys.exit(main())
