"""Draws the life of an order, docs/order_states.md, from the table that the services run on.

python tools/order_states.py            write the page
python tools/order_states.py --check    fail when it is not current
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from services.ledger.order import TERMINAL, OrderEvent, OrderState, next_state

PAGE = Path(__file__).resolve().parent.parent / "docs" / "order_states.md"
HEAD = """# The states of an order

Made by `tools/order_states.py` from the table in `services/ledger/order.py`. An event that a state does not
list is without effect there: it repeats, or comes too late.

"""
OPEN = [state for state in OrderState if state not in TERMINAL]
UNEXECUTED = {OrderState.PENDING_NEW, OrderState.NEW}
"""Their first fill ends them, so that nothing has executed yet."""


def outcomes(state: OrderState, event: OrderEvent) -> tuple[OrderState | None, OrderState | None]:
    """The state after `event` for an order without and with executions."""
    fresh = next_state(state, event, executed=False)
    return fresh, fresh if state in UNEXECUTED else next_state(state, event, executed=True)


def diagram() -> Iterator[str]:
    """The page's picture, as Mermaid. What holds for every open state is drawn once, from their frame."""
    common = {
        event: ends.pop()
        for event in OrderEvent
        if len(ends := {next_state(state, event, executed=True) for state in OPEN}) == 1
    }
    yield "stateDiagram-v2"
    yield "    [*] --> pending_new : reserved"
    yield "    [*] --> waiting : reserved as an exit"
    yield "    [*] --> denied : denied"
    yield "    state open {"
    for before in OPEN:
        labels: dict[OrderState, list[str]] = {}
        for event in OrderEvent:
            if event in common:
                continue
            fresh, executed = outcomes(before, event)
            if fresh is not None:
                labels.setdefault(fresh, []).append(event.value)
            if executed is not None and executed is not fresh:
                labels.setdefault(executed, []).append(f"{event} (executed)")
        for after, events in labels.items():
            if after in OPEN:
                yield f"        {before} --> {after} : {', '.join(events)}"
    yield "    }"
    for before in OPEN:
        for event in OrderEvent:
            end = next_state(before, event, executed=False)
            if event not in common and end in TERMINAL:
                yield f"    {before} --> {end} : {event}"
    for event, end in common.items():
        if end is not None:
            yield f"    open --> {end} : {event}"
    for end in sorted(TERMINAL):
        yield f"    {end} --> [*]"


def table() -> Iterator[str]:
    """Every event in every open state; what an executed order does otherwise stands behind the stroke."""
    yield "| event | " + " | ".join(OPEN) + " |"
    yield "| --- " * (len(OPEN) + 1) + "|"
    for event in OrderEvent:
        cells = [
            " / ".join(dict.fromkeys(after or "–" for after in outcomes(state, event))) for state in OPEN
        ]
        yield f"| {event} | " + " | ".join(cells) + " |"


def page() -> str:
    picture, rows = "\n".join(diagram()), "\n".join(table())
    return f"{HEAD}```mermaid\n{picture}\n```\n\n{rows}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail when it is not current")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        raise SystemExit(f"docs/{PAGE.name} is not current: run `python tools/{Path(__file__).name}`")


if __name__ == "__main__":
    main()
