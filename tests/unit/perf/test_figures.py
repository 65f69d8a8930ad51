"""What reports and verdicts are computed from."""

from __future__ import annotations

from collections import Counter

import pytest

from perf import guard, stages
from perf.gate.accounting import Account
from perf.gate.verdicts import Table
from perf.load import answer_word, centiles
from perf.scrape import Metrics


def histogram(**counts: int) -> Metrics:
    """Cumulative buckets of `latency`: `le1=3` means three values up to 1."""
    return Metrics(
        {
            ("latency_bucket", frozenset({("le", bound.removeprefix("le")), ("kind", "reserve")})): float(
                count
            )
            for bound, count in counts.items()
        }
    )


def accounted(**changes: object) -> Account:
    """Ten orders: three denied, one of them after a reservation, seven filled."""
    members = {
        "sent": 10,
        "answered": {"submitted": 7, "position_limit": 2, "risk_timeout": 1},
        "refused": 0,
        "failed": 0,
        "published": 7,
        "ended": Counter(denied=2, canceled=1, filled=7),
        "given_up": 1,
        "fills_stream": 7,
        "fills_stored": 7,
        "wrong_positions": (),
    }
    return Account(**{**members, **changes})  # type: ignore[arg-type]


def test_centiles_are_values_that_occurred() -> None:
    found = centiles(float(value) for value in range(1, 101))
    assert found == {"P50": 50.0, "P90": 90.0, "P99": 99.0, "P99.9": 100.0, "max": 100.0}


def test_centiles_of_nothing_are_none_at_all() -> None:
    assert centiles([]) == {}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"status": "submitted", "order_id": "a-1"}, "submitted"),
        ({"status": "rejected", "reason": "position_limit"}, "position_limit"),
        ({"approved": True}, "approved"),
        ({"approved": False, "reason": "var_limit"}, "var_limit"),
    ],
)
def test_an_answer_is_counted_by_what_it_says(answer: dict[str, object], word: str) -> None:
    assert answer_word(answer) == word


def test_a_quantile_is_interpolated_inside_its_bucket() -> None:
    metrics = histogram(le1=0, le2=10, **{"le+Inf": 10})
    assert metrics.quantile("latency", 0.5, kind="reserve") == pytest.approx(1.5)


def test_a_quantile_beyond_the_last_bucket_is_its_lower_bound() -> None:
    assert histogram(le1=1, **{"le+Inf": 10}).quantile("latency", 0.99) == 1.0


def test_a_quantile_of_an_empty_histogram_passes_no_level() -> None:
    table = Table()
    table.at_most("6", "risk P50", histogram(le1=0, **{"le+Inf": 0}).quantile("latency", 0.5), 1.5)
    assert table.lines[0].verdict == "FAIL"


def test_a_difference_of_readings_counts_what_came_between() -> None:
    earlier, later = histogram(le1=3), histogram(le1=5)
    assert (later - earlier).total("latency_bucket", kind="reserve") == 2


def test_a_level_is_met_and_its_goal_missed() -> None:
    table = Table()
    table.at_most("3", "P50", 5.0, 10.0, 3.0)
    assert "pass, goal missed" in table.markdown()
    assert not table.failed


def test_orders_that_add_up_leave_nothing_to_complain_about() -> None:
    account = accounted()
    assert account.complaints == []
    assert account.spelled().startswith(
        "10 received = 3 denied + 0 rejected + 7 filled + 0 canceled + 0 expired + 0 open"
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"published": 6}, "7 answered submitted, 6 in stream ORDERS"),
        ({"published": 8}, "7 answered submitted, 8 in stream ORDERS"),
        ({"ended": Counter(filled=6, canceled=1)}, "7 in stream ORDERS, 6 in the log of orders"),
        ({"fills_stored": 6}, "7 fills in the stream, 6 in QuestDB"),
        ({"fills_stream": 6, "fills_stored": 6}, "7 orders filled by 6 fills"),
        ({"wrong_positions": ("a",)}, "position of a is not Σ of its fills"),
        ({"sent": 11}, "11 sent, 10 answered"),
    ],
)
def test_whatever_does_not_add_up_is_named(changes: dict[str, object], complaint: str) -> None:
    assert complaint in accounted(**changes).complaints


def test_an_order_without_an_answer_may_have_been_sent_or_not() -> None:
    for published in (7, 8):
        account = accounted(
            sent=13, refused=2, failed=1, published=published, ended=Counter(filled=published, canceled=1),
            fills_stream=published, fills_stored=published,
        )  # fmt: skip
        assert account.complaints == []


def test_a_stack_counts_for_its_innermost_known_frame() -> None:
    stack = "run (services/oms/submit.py:10);encode (services/ledger/codec.py:5);dumps (json/encoder.py:1)"
    assert stages.stage_of(stack) == "ledger: records to bytes and back"


def test_an_unknown_stack_is_the_event_loop() -> None:
    assert stages.stage_of("main (prog.py:1)") == stages.OTHER


def test_samples_divide_the_cpu_time_of_their_own_thread() -> None:
    threads = stages.fold(
        [
            "thread (1): MainThread;f (services/risk/checks/case.py:1) 30",
            "thread (1): MainThread;g (nats/aio/client.py:1) 10",
            "thread (2): log-writer;h (services/runtime/logs.py:1) 1000",
        ]
    )
    found, functions = stages.weigh(threads, {1: 4.0, 2: 0.5, 3: 0.25})
    assert found == {"risk checks": 3.0, "NATS client": 1.0, "logs": 0.5, stages.THREADS: 0.25}
    assert functions["f (services/risk/checks/case.py)"] == 3.0


def test_a_ratio_above_its_bound_is_named() -> None:
    assert guard.compare({"step: a": 2.1}, {"step: a": 2.0}) == ["step: a: 2.10 is above 2"]


def test_a_ratio_that_is_not_a_number_is_above_every_bound() -> None:
    assert guard.compare({"a": float("nan")}, {"a": 2.0})


@pytest.mark.parametrize(("found", "bounds"), [({"a": 1.0}, {}), ({}, {"a": 1.0})])
def test_measures_and_bounds_have_to_match(found: dict[str, float], bounds: dict[str, float]) -> None:
    assert len(guard.compare(found, bounds)) == 1
