"""Numbers of a request: the quick way takes what the thorough way takes, and yields the same."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.numbers import NumberOutOfRange, bounded
from services.order_request import read_number
from services.runtime.errors import InvalidArgument

digits = st.text("0123456789", max_size=24)
numbers = st.builds(
    "{}{}{}{}".format, st.sampled_from(["", "+", "-"]), digits, st.sampled_from(["", "."]), digits
)


@given(numbers)
def test_a_number_is_read_as_the_bounds_say(text: str) -> None:
    try:
        expected = bounded(Decimal(text))
    except (NumberOutOfRange, ArithmeticError):
        with pytest.raises(InvalidArgument):
            read_number("quantity", text)
    else:
        assert read_number("quantity", text).as_tuple() == expected.as_tuple()


@pytest.mark.parametrize("text", ["", ".", " 1", "1 ", "1_000", "NaN", "Infinity", "٣", "1e1000", "1\n"])
def test_what_is_no_number_names_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="quantity"):
        read_number("quantity", text)
