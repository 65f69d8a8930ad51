"""The short form of the robustness suite: one round, in which every part is hurt once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import uvloop

from tests.robustness.plan import Fault, Kind
from tests.robustness.recovery import GIVE_UP_SEC
from tests.robustness.report import markdown
from tests.robustness.run import Options, run

FAULTS = (
    (Fault(Kind.KILL, "valkey", 0.5),),
    (Fault(Kind.LOSSY, "oms>valkey", 2.0),),
    (Fault(Kind.KILL, "nats", 0.5),),
    (Fault(Kind.KILL_WORKER, "oms", 0.0),),
    (Fault(Kind.CUT, "callers>oms", 0.5), Fault(Kind.PAUSE, "live-gateway", 1.0)),
    (Fault(Kind.MUTE, "oms>risk", 1.5),),
    (Fault(Kind.KILL, "live-gateway", 0.5),),
    (Fault(Kind.FULL, "LEDGER", 1.0),),
    (Fault(Kind.KILL, "risk", 0.5), Fault(Kind.KILL, "questdb", 0.5)),
    (Fault(Kind.PAUSE_WORKER, "oms", 3.0),),
    (Fault(Kind.KILL, "oms", 0.5),),
)


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled_while_every_part_is_hurt(tmp_path: Path) -> None:
    options = Options(seconds=180, seed=random.randrange(1_000_000), rate=20, faults=FAULTS)
    result = uvloop.run(run(tmp_path, options))
    print(markdown(result))
    assert result.violations == []
    # The bound is for a machine of its own; here others may be busy, and it is enough that all comes back.
    assert max(injected.recovery.seconds for injected in result.injected) < GIVE_UP_SEC
    assert result.outcomes["submitted"] > 50
