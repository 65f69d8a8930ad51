"""What the unit tests of oms share."""

import pytest

from services.oms import earlier, settling, submit
from tests.unit.oms.desk import Desk, make_desk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test has to sit out are short."""
    monkeypatch.setattr(settling, "SETTLE_SEC", 0.2)
    monkeypatch.setattr(earlier, "REPEAT_WAIT_SEC", 0.1)
    monkeypatch.setattr(submit, "REPUBLISH_WAIT_SEC", 0.01)


@pytest.fixture
async def desk() -> Desk:
    """Submissions that are checked, and fail closed."""
    return make_desk()
