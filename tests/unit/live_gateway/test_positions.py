"""The table of positions: sums, pages, copies."""

from decimal import Decimal

from services.ledger.order import Side
from services.live_gateway.orders import Position
from services.live_gateway.positions import Movement, PositionTable, of_fill
from services.messages import Fill


def _movement(account: str, symbol: str, quantity: str) -> Movement:
    return Movement(account, symbol, Decimal(quantity), Decimal(quantity) * 10, Decimal("0.1"))


def test_movements_add_up_and_can_be_taken_out_again() -> None:
    table = PositionTable()
    table.apply(_movement("alice", "BTCUSDT", "2"))
    table.apply(_movement("alice", "BTCUSDT", "-3"))
    assert table.page("", None, 10) == (
        [(("alice", "BTCUSDT"), Position(Decimal(-1), Decimal(-10), Decimal("0.2"), 2))],
        False,
    )
    table.apply(_movement("alice", "BTCUSDT", "-3"), -1)
    assert table.as_mapping()["alice", "BTCUSDT"].quantity == 2


def test_pages_follow_each_other_without_gap_in_order_of_account_and_symbol() -> None:
    table = PositionTable()
    keys = [(account, symbol) for account in ("a", "a-b", "b", "a_c") for symbol in ("ETH", "BTC")]
    for account, symbol in keys:
        table.apply(_movement(account, symbol, "1"))
    seen: list[tuple[str, str]] = []
    after, more = None, True
    while more:
        page, more = table.page("", after, 3)
        seen += [key for key, _ in page]
        after = seen[-1]
    assert seen == sorted(keys)


def test_page_of_an_account_has_only_its_symbols() -> None:
    table = PositionTable()
    for account in ("a", "ab", "b"):
        table.apply(_movement(account, "BTC", "1"))
        table.apply(_movement(account, "ETH", "1"))
    assert [key for key, _ in table.page("a", None, 10)[0]] == [("a", "BTC"), ("a", "ETH")]
    page, more = table.page("a", None, 1)
    assert ([key for key, _ in page], more) == ([("a", "BTC")], True)
    page, more = table.page("a", ("a", "BTC"), 1)
    assert ([key for key, _ in page], more) == ([("a", "ETH")], False)
    assert table.page("nobody", None, 10) == ([], False)


def test_table_is_a_copy_of_what_it_starts_with() -> None:
    start = {("alice", "BTCUSDT"): Position(Decimal(1))}
    PositionTable(start).apply(_movement("alice", "BTCUSDT", "1"))
    assert start["alice", "BTCUSDT"].quantity == 1


def test_sale_moves_a_position_down() -> None:
    fill = Fill(account="a", symbol="BTC", side=Side.SELL, quantity=Decimal(2), price=Decimal(5))
    assert of_fill(fill) == Movement("a", "BTC", Decimal(-2), Decimal(-10), Decimal(0))
