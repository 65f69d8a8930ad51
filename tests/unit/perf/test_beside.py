"""Two loads at once."""

from typing import Any, cast

import pytest

from perf import beside
from perf.load import Load


@pytest.fixture(autouse=True)
def _no_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "LEAD_SEC", 0.0)


def test_both_loads_are_told() -> None:
    done, checked = cast("Any", object()), cast("Load", object())
    assert beside.beside(lambda run, seconds: checked, 1.0, lambda: done) == (done, checked)
    assert beside.beside(None, 1.0, lambda: done) == (done, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_load_that_fails_is_no_measurement() -> None:
    def fails(run: int, seconds: float) -> Load:
        raise OSError("no tool")

    with pytest.raises(RuntimeError, match="load of checks failed"):
        beside.beside(fails, 1.0, lambda: cast("Any", object()))
