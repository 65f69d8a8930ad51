"""The ledger's Valkey: one connection for commits and account loads, one for everything else that reads.

Commits and loads of a worker share a connection with client-side tracking, so that the server tells of every
account that another connection changed, in order with the answers. Whatever is asked in one turn of the event
loop leaves in one write, and answers of many accounts are under way together.
"""

import asyncio
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from services.ledger import codec
from services.ledger.connection import Argument, Connection, Endpoint
from services.ledger.continuity import LIFE_REQUESTS, Continuity, JournalTail, life_of
from services.ledger.deadline import due_ns
from services.ledger.draft import Copy, Draft
from services.ledger.errors import LedgerUnavailable, NotConnected
from services.ledger.keys import AccountKeys, account_keys
from services.ledger.order import Order, OrderState

CLIENT_ID_KEPT_MS: Final = 24 * 3600 * 1000
"""How long the client order id of an order is kept after its end."""
TOMBSTONE_KEPT_MS: Final = 3600 * 1000
"""How long an order that was given up waits for a late reservation, its own or one that is older."""
REMEMBERED_DENIALS: Final = 1000

_SOURCE: Final = resources.files("services.ledger").joinpath("commit.lua").read_text()
_VERSION: Final = hashlib.sha256(_SOURCE.encode()).hexdigest()[:12]
LIBRARY: Final = _SOURCE.replace("@VERSION@", _VERSION)
"""The Valkey Functions. Their names carry a hash of the text: old and new workers run side by side."""

LOAD_LIBRARY: Final = ("FUNCTION", "LOAD", LIBRARY)
"""For the start of every connection that calls them; a library that is there already is no error."""

_randomness: Final = random.Random(os.urandom(32))


def function(name: str) -> str:
    """The full name of one of the library's functions, as commit.lua registers them."""
    return f"trade2026_{name}_{_VERSION}"


async def load_if_lost(connection: Connection, error: Exception) -> bool:
    """Loads the library again when `error` says that the server lost it; False for any other error."""
    if "Function not found" not in str(error):
        return False
    await connection.request("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    return True


_COMMIT: Final = function("commit")


def next_token(copy: Copy, incarnation: str) -> str:
    """A token that no other commit has ever written: `<incarnation>.<number>.<random>`.

    The incarnation is that of the stored token; `incarnation` begins one.
    """
    number = 1
    if copy.token:
        incarnation, last, _ = copy.token.split(".")
        number = int(last) + 1
    return f"{incarnation}.{number}.{_randomness.getrandbits(64):016x}"


class Store:
    """Valkey I/O of one worker."""

    def __init__(
        self,
        endpoint: Endpoint,
        partitions: int,
        invalidated: Callable[[str | None], None],
        journal: JournalTail,
        remembered_denials: int = REMEMBERED_DENIALS,
    ) -> None:
        self._partitions = partitions
        self._remembered_denials = remembered_denials
        self._invalidated = invalidated
        self.commits: Final = Connection(
            endpoint,
            prepare=(LOAD_LIBRARY, ("CLIENT", "TRACKING", "ON", "NOLOOP"), *LIFE_REQUESTS),
            invalidated=self._on_invalidation,
            life=life_of,
        )
        self.reads: Final = Connection(endpoint, prepare=LIFE_REQUESTS, life=life_of)
        self.continuity: Final = Continuity(self.commits, partitions, journal)

    async def open(self) -> None:
        await self.commits.open()
        await self.reads.open()

    async def close(self) -> None:
        await self.commits.close()
        await self.reads.close()

    def _on_invalidation(self, stored: Sequence[bytes] | None) -> None:
        if stored is None:
            self._invalidated(None)
            return
        for key in stored:
            # account:{p<N>}:<account>; records that were read on this connection are of no interest.
            if key.startswith(b"account:"):
                self._invalidated(key.decode().rpartition(":")[2])

    def keys_of(self, account: str) -> AccountKeys:
        return account_keys(account, self._partitions)

    async def load(
        self,
        account: str,
        known: Copy | None,
        install: Callable[[Copy], None] | None,
        order_ids: Sequence[str],
    ) -> Copy:
        """Reads an account and the named orders. `install` is called with the copy in stream order.

        Raises what `Continuity.ensure` raises.
        """
        held = self.keys_of(account)
        await self.continuity.ensure(held.partition)

        read: list[Copy] = []

        def on_account(answer: Mapping[bytes, bytes]) -> Copy:
            copy = read_copy(by_field(answer), known)
            read.append(copy)
            if install is not None:
                install(copy)
            return copy

        loading = self.commits.request("HGETALL", held.account, handler=on_account)
        if order_ids:
            await asyncio.gather(loading, self._orders(account, lambda: read[0], order_ids))
        copy: Copy = await loading
        return copy

    async def load_orders(self, account: str, copy: Copy, order_ids: Sequence[str]) -> None:
        """Adds the named orders to an account's copy."""
        await self._orders(account, lambda: copy, order_ids)

    def _orders(
        self, account: str, copy: Callable[[], Copy], order_ids: Sequence[str]
    ) -> "asyncio.Future[None]":
        prefix = self.keys_of(account).order_prefix

        def on_records(answer: Sequence[bytes | None]) -> None:
            orders = copy().orders
            for order_id, record in zip(order_ids, answer, strict=True):
                orders[order_id] = read_order(record, account)

        return self.commits.request("MGET", *(prefix + i for i in order_ids), handler=on_records)

    def commit(
        self,
        account: str,
        draft: Draft,
        named: Iterable[str],
        fenced: bool,
        install: Callable[[Copy], None],
    ) -> "asyncio.Future[bool]":
        """Sends the draft; the future's result tells whether it is committed.

        `install` is called in stream order with what is stored then: the draft's state, or the one that made
        it fail.

        A draft without events only compares the token, unless `fenced`: then it replaces the token too, so
        that no earlier commit whose answer is missing can land any more. `named` are the orders that the
        caller wants to see when the commit is refused. Raises `NotConnected` when the connection is another
        one than that which was found to be in order.
        """
        held = self.keys_of(account)
        if not self.continuity.holds(held.partition):
            raise NotConnected("this life of the data is not in use yet")
        after = draft.account
        token = draft.copy.token
        if after is not None and (draft.events or fenced):
            token = next_token(draft.copy, after.incarnation)
        named_ids = list(named)
        fields = changed_fields(draft)
        arguments = self._arguments(held, draft, token, named_ids, fields)

        def on_answer(answer: Any) -> bool:
            if answer == 1:
                install(draft.copy.advanced(token, after, fields, draft.orders))
                return True
            install(_stored(answer, draft, account, named_ids))
            return False

        return self.commits.request(*arguments, handler=on_answer)

    async def restore(self, account: str, draft: Draft, incarnation: str) -> Copy:
        """Writes a `Draft.restoring` under a token of `incarnation`; returns the account as it is then.

        For a partition that a rebuild keeps out of use. Raises errors of the connection, and
        `LedgerUnavailable` when somebody else has written the account.
        """
        token = next_token(draft.copy, incarnation)
        fields = changed_fields(draft)
        answer = await self.commits.request(*self._arguments(self.keys_of(account), draft, token, [], fields))
        if answer != 1:
            raise LedgerUnavailable(f"account {account} was written by somebody else during its rebuild")
        return draft.copy.advanced(token, draft.account, fields, {})

    def _arguments(
        self, held: AccountKeys, draft: Draft, token: str, named: list[str], fields: Mapping[bytes, bytes]
    ) -> list[Argument]:
        prefix, clients = held.order_prefix, held.client_prefix
        # The lists of commit.lua, in its order.
        lists: list[list[Argument]] = [[] for _ in range(15)]
        (order_guards, client_guards, wanted, changed, order_records, given_up, open_clients, ended_clients,
         indexed, opened, closed, deadlines, undue, ended, denials) = lists  # fmt: skip
        order_guards += [prefix + i for i in draft.order_guards]
        for client_id, order_id in draft.client_guards:
            client_guards += (clients + client_id, order_id)
        wanted += [prefix + i for i in named]
        for name, value in fields.items():
            changed += (name, value)
        records: dict[str, tuple[Order, bytes]] = {}
        for client_id, order in draft.given_up.items():
            given_up += (clients + client_id, codec.GIVEN_UP + codec.encode_memory(order))
        for order_id, order in draft.orders.items():
            before = draft.before[order_id]
            record = codec.encode_order(order)
            records[order_id] = (order, record)
            order_records += (prefix + order_id, record)
            client_id = order.client_order_id
            if before is None:
                indexed += (0, order_id)
            if order.is_open:
                due = due_ns(order)
                if due is not None:
                    deadlines += (due // 1_000_000, order_id)
                elif before is not None and due_ns(before) is not None:
                    undue.append(order_id)
                if before is None:
                    opened += (0, order_id)
                    if client_id:
                        open_clients += (clients + client_id, order_id)
                continue
            if order_id in draft.tombstones:
                ended += (TOMBSTONE_KEPT_MS, order_id)
                continue
            ended += (0, order_id)
            if before is not None and not before.is_open:
                continue
            if before is not None:
                closed.append(order_id)
                undue.append(order_id)
            if client_id and draft.clients.get(client_id, order_id) == order_id:
                ended_clients += (clients + client_id, order_id)
            if client_id and order.state is OrderState.DENIED:
                denials.append(f"{order_id} {client_id}")
        envelope = positions = b""
        if draft.events:
            account = draft.account
            assert account is not None
            seq = account.event_seq - len(draft.events) + 1
            envelope = codec.encode_commit(held.name, seq, draft.now_ns, draft.events, records)
            filled = draft.filled_symbols()
            if filled:
                positions = codec.encode_positions(
                    [
                        codec.PositionChange(
                            symbol,
                            account.positions[symbol].quantity,
                            account.positions[symbol].last_price,
                            seq + place,
                        )
                        for symbol, place in filled.items()
                    ]
                )
        arguments: list[Argument] = [
            "FCALL", _COMMIT, 7, held.account, held.outbox, held.deadline, held.ended, held.open, held.index,
            held.denied, draft.copy.token, token if token != draft.copy.token else "", envelope, positions,
            prefix, clients, self._remembered_denials, CLIENT_ID_KEPT_MS, TOMBSTONE_KEPT_MS,
        ]  # fmt: skip
        arguments += [len(items) for items in lists]
        for items in lists:
            arguments += items
        return arguments


def changed_fields(draft: Draft) -> dict[bytes, bytes]:
    """The fields of the account hash that the draft changes."""
    before, after = draft.copy.account, draft.account
    if after is None or after is before:
        return {}
    changed = {b"head": codec.encode_head(after)}
    old = before.positions if before is not None else {}
    for symbol, position in after.positions.items():
        if position is not old.get(symbol):
            changed[b"s:" + symbol.encode()] = codec.encode_position(position)
    return changed


def read_copy(fields: dict[bytes, bytes], known: Copy | None) -> Copy:
    """The copy that an account hash holds. What `known` has decoded already is taken from it."""
    token = fields.get(b"token")
    if token is None:
        return Copy()
    text = token.decode()
    if known is not None and known.token == text:
        return Copy(text, known.account, known.fields, dict(known.orders))
    positions = []
    for name, value in fields.items():
        if name.startswith(b"s:"):
            if known is not None and known.account is not None and known.fields.get(name) == value:
                positions.append(known.account.positions[name[2:].decode()])
            else:
                positions.append(codec.decode_position(value))
    return Copy(text, codec.decode_account(fields[b"head"], positions), fields)


def read_order(record: bytes | None, account: str) -> Order | None:
    """The order in `record`, if there is one and it is this account's."""
    if record is None:
        return None
    order = codec.decode_order(record)
    return order if order.account == account else None


def read_holder(
    holder: bytes, record: bytes | None, account: str, client_order_id: str
) -> tuple[str, Order | None]:
    """The order that a client-id key names, and what is known of it: its record, or what is kept of it."""
    order = read_order(record, account)
    if holder.startswith((b"[", codec.GIVEN_UP)):
        kept = codec.decode_memory(holder.removeprefix(codec.GIVEN_UP), account, client_order_id)
        return kept.order_id, order or kept
    return holder.decode(), order


def _stored(answer: Sequence[Any], draft: Draft, account: str, named: Sequence[str]) -> Copy:
    flat, records, holders, held_records = answer
    known = draft.copy
    copy = (
        Copy(known.token, known.account, known.fields, dict(known.orders))
        if flat is None
        else read_copy(by_field(flat), known)
    )
    for order_id, record in zip(named, records, strict=True):
        copy.orders[order_id] = read_order(record, account)
    for (client_id, _), holder, record in zip(draft.client_guards, holders, held_records, strict=True):
        if holder is not None:
            order_id, order = read_holder(holder, record, account, client_id)
            if order is not None and holder.startswith(codec.GIVEN_UP):
                copy.given_up[client_id] = order
                continue
            # A key that outlived its order's record names nobody.
            copy.clients[client_id] = order_id if order is not None else ""
            if order is not None:
                copy.orders[order_id] = order
    return copy


def by_field(answer: Any) -> dict[bytes, bytes]:
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))
