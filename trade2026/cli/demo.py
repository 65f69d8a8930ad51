"""`trade2026 demo`: one order's way through a platform of its own, on real servers and real prices.

A stack is started on free ports with data of its own, and what a user, an operator and an auditor would see
is printed step by step. Every statement is checked; the exit status is 0 only when all of them hold.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

if TYPE_CHECKING:
    from services.runtime.local_stack import StackProcess

T = TypeVar("T")

_ACCOUNT = "demo"
_SYMBOL = "BTCUSDT"
_QUANTITY = Decimal("0.1")
_ORDER = {"account": _ACCOUNT, "symbol": _SYMBOL, "side": "buy", "type": "market", "quantity": 0.1}
_DEADLINE_SEC = 20.0

# What must be refused, and why: the change to the order above, the reason, words for a person.
_DENIED: tuple[tuple[dict[str, object], str, str], ...] = (
    ({"quantity": 10}, "order_size_limit", "more dollars in one order than any order may have"),
    ({"quantity": 2}, "concentration_limit", "more than a quarter of the account in one symbol"),
    ({"side": "sell", "quantity": 0.5}, "short_restriction", "selling more than the account holds"),
)


class StepFailed(Exception):
    """Something that the demonstration states does not hold; the message says what."""


def run() -> int:
    """Show everything; returns the exit status of the command."""
    from services.runtime.local_stack import PartFailed, PartUnavailable, StackProcess

    with tempfile.TemporaryDirectory(prefix="trade2026-demo-") as folder:
        # Fills reach the fill store within a second here, not within the ten that suit a busy day.
        stack = StackProcess(Path(folder), variables={"TRADE2026_OMS__QUESTDB__FLUSH_INTERVAL_SEC": "1"})
        try:
            with _started(stack):
                asyncio.run(_show(stack))
        except (StepFailed, PartFailed, PartUnavailable, httpx.HTTPError) as error:
            print(f"\nFAILED: {error}", file=sys.stderr)
            return 1
    print("\nEverything held.")
    return 0


@contextmanager
def _started(stack: StackProcess) -> Iterator[None]:
    _title("A platform of its own: Valkey, NATS, QuestDB and the services")
    told = 0
    deadline = time.monotonic() + stack.start_timeout_sec
    stack.start()
    try:
        while True:
            lines = stack.log_path.read_text().splitlines()
            for line in lines[told:]:
                print(f"  {line}", flush=True)
            told = len(lines)
            if not stack.running or time.monotonic() > deadline:
                raise stack.failure(stack.exit_reason() or "did not become healthy in time")
            if stack.probe().ready:
                break
            time.sleep(0.1)
        yield
    finally:
        stack.stop()


async def _show(stack: StackProcess) -> None:
    client = await nats.connect(f"nats://{stack.address('nats', 'nats')}")
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            demonstration = _Demonstration(stack, client, http)
            await demonstration.show()
    finally:
        await client.close()


class _Demonstration:
    def __init__(self, stack: StackProcess, client: Client, http: httpx.AsyncClient) -> None:
        self._stack = stack
        self._nats = client
        self._http = http
        self._risk = f"http://{stack.address('risk', 'rest')}"
        self._oms = f"http://{stack.address('oms', 'rest')}"
        self._questdb = f"http://{stack.address('questdb', 'http')}"
        self._heard: dict[str, list[dict[str, Any]]] = {}

    async def show(self) -> None:
        for subject in (
            f"ticks.{_SYMBOL}",
            f"executions.{_ACCOUNT}",
            f"fills.{_ACCOUNT}",
            f"positions.{_ACCOUNT}",
        ):
            await self._listen(subject)
        await self._nats.flush()
        await self._prices()
        await self._controls()
        order_id, fill = await self._order()
        await self._repeated(order_id)
        await self._position(fill)
        await self._stored(order_id, fill)
        await self._denials()
        await self._traces(order_id)

    async def _prices(self) -> None:
        _title(f"The market: {_SYMBOL} as it traded on 2024-01-10, replayed")
        tick = await self._next(f"ticks.{_SYMBOL}")
        _line("ticks." + _SYMBOL, f"price {tick['price']}")
        _check(tick["price"] > 0, "a price above 0")

    async def _controls(self) -> None:
        _title(f"What risk would say to: market buy {_QUANTITY} {_SYMBOL} (asked only, nothing is reserved)")
        answer = await self._post(f"{self._risk}/check", {**_ORDER, "explain": True})
        controls = answer["explanation"]["controls"]
        for control in controls:
            numbers = (
                f"{control['value']} of {control['limit']}"
                if "value" in control and "limit" in control
                else ""
            )
            _line(control["name"], f"{'passed' if control['passed'] else 'FAILED'}  {numbers}")
        _check(answer["approved"] is True, "the order is approved")
        _check(all(control["passed"] for control in controls), "every control passed")

    async def _order(self) -> tuple[str, dict[str, Any]]:
        _title("The order")
        began = time.perf_counter()
        answer = await self._submit({**_ORDER, "client_order_id": "demo-1"})
        took_ms = (time.perf_counter() - began) * 1000
        _line("POST /orders", f"{answer}  {took_ms:.1f} ms")
        _check(answer["status"] == "submitted", "the order was submitted")
        order_id = str(answer["order_id"])
        fill = await self._next(f"fills.{_ACCOUNT}", order_id)
        filled_ms = (time.perf_counter() - began) * 1000
        for report in self._heard[f"executions.{_ACCOUNT}"]:
            _line("executions." + _ACCOUNT, f"{report['kind']}  {report['exec_id']}")
        _line(
            "fills." + _ACCOUNT,
            f"{fill['quantity']} at {fill['price']}, fee {fill.get('fee', 0)}  {filled_ms:.1f} ms",
        )
        _check(Decimal(fill["quantity"]) == _QUANTITY, "filled whole")
        return order_id, fill

    async def _repeated(self, order_id: str) -> None:
        _title("The same request again, as after a lost answer: the same order, not a second one")
        answer = await self._submit({**_ORDER, "client_order_id": "demo-1"})
        _line("POST /orders", str(answer))
        _check(answer.get("order_id") == order_id, "the same order id")

    async def _position(self, fill: dict[str, Any]) -> None:
        _title("The position")

        async def booked() -> dict[str, Any] | None:
            position = (await self._get(f"{self._oms}/positions/{_ACCOUNT}")).get(_SYMBOL)
            return position if position and position["quantity"] == _QUANTITY else None

        position = await _until(booked, f"a position of exactly {_QUANTITY}")
        _line("GET /positions", json.dumps(position, default=str))
        update = await self._next(f"positions.{_ACCOUNT}")
        _line("positions." + _ACCOUNT, f"quantity {update['quantity']} price {update['price']}")
        _check(update["price"] == fill["price"], "the last price is the fill's")
        risk = await self._get(f"{self._risk}/accounts/{_ACCOUNT}/risk")
        _line(
            "GET /accounts/…/risk",
            f"cash {risk['cash']}  equity {risk['equity']}  buying power {risk['buying_power']}",
        )

    async def _stored(self, order_id: str, fill: dict[str, Any]) -> None:
        _title("The fill in QuestDB")
        columns = "timestamp, fill_id, symbol, side, quantity, price"
        query = f"SELECT {columns} FROM fills WHERE order_id = '{order_id}'"

        async def rows() -> list[list[Any]] | None:
            response = await self._http.get(f"{self._questdb}/exec", params={"query": query})
            return json.loads(response.text, parse_float=Decimal)["dataset"] if response.is_success else None

        stored = await _until(rows, "a row in the table fills")
        for row in stored:
            _line("fills", "  ".join(map(str, row)))
        _check(len(stored) == 1, "exactly one row")
        _check(stored[0][1] == fill["fill_id"], "the row of this fill")

    async def _denials(self) -> None:
        _title("Orders that must not pass")
        for change, reason, words in _DENIED:
            answer = await self._submit({**_ORDER, **change})
            _line(f"{words}", "")
            _line(f"  {change}", str(answer))
            _check(answer["status"] == "rejected", "rejected")
            _check(answer["reason"] == reason, f"the reason is {reason}")
        position = (await self._get(f"{self._oms}/positions/{_ACCOUNT}"))[_SYMBOL]
        _check(position["quantity"] == _QUANTITY, "the position is unchanged")

    async def _traces(self, order_id: str) -> None:
        _title("The order in the logs of every service, by its id")
        for part in ("risk", "oms", "live-gateway"):

            async def lines(part: str = part) -> list[dict[str, Any]]:
                text = self._stack.part_log(part).read_text()
                return [
                    json.loads(line)
                    for line in text.splitlines()
                    if order_id in line and line.startswith("{")
                ]

            for entry in await _until(lines, f"the order id in the log of {part}"):
                _line(part, entry["message"])

    async def _listen(self, subject: str) -> None:
        self._heard[subject] = []

        async def hear(message: Msg) -> None:
            self._heard[subject].append(json.loads(message.data, parse_float=Decimal))

        await self._nats.subscribe(subject, cb=hear)

    async def _next(self, subject: str, order_id: str | None = None) -> dict[str, Any]:
        async def heard() -> dict[str, Any] | None:
            matching = (one for one in self._heard[subject] if order_id in (None, one.get("order_id")))
            return next(matching, None)

        return await _until(heard, f"a message on {subject}")

    async def _submit(self, order: dict[str, object]) -> dict[str, Any]:
        """Submits as a client does: a time-out of the check is no outcome, so the order is sent again."""
        deadline = time.monotonic() + _DEADLINE_SEC
        while True:
            answer = await self._post(f"{self._oms}/orders", order)
            if answer.get("reason") != "risk_timeout" or time.monotonic() > deadline:
                return answer
            _line("POST /orders", f"{answer['message']}; nothing was reserved, sent again")

    async def _post(self, url: str, body: dict[str, object]) -> dict[str, Any]:
        return _body(await self._http.post(url, json=body))

    async def _get(self, url: str) -> dict[str, Any]:
        return _body(await self._http.get(url))


def _body(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        request = response.request
        raise StepFailed(f"{request.method} {request.url} answered {response.status_code}: {response.text}")
    body: dict[str, Any] = json.loads(response.text, parse_float=Decimal)
    return body


async def _until(condition: Callable[[], Awaitable[T | None]], what: str) -> T:
    deadline = time.monotonic() + _DEADLINE_SEC
    while time.monotonic() < deadline:
        if value := await condition():
            return value
        await asyncio.sleep(0.05)
    raise StepFailed(f"no {what} within {_DEADLINE_SEC:.0f} s")


def _check(holds: bool, statement: str) -> None:
    if not holds:
        raise StepFailed(f"does not hold: {statement}")
    print(f"  ✓ {statement}", flush=True)


def _title(text: str) -> None:
    print(f"\n{text}", flush=True)


def _line(name: str, text: str) -> None:
    print(f"  {name:<24} {text}", flush=True)
