"""`python -m trade2026.cli` is the command `trade2026`."""

import sys

from trade2026.cli.main import main

sys.exit(main())
