"""The process-wide decimal context, as every worker has it."""

import decimal
from collections.abc import Iterator

import pytest

from services.ledger.numbers import CONTEXT


@pytest.fixture(autouse=True)
def _exact_context() -> Iterator[None]:
    with decimal.localcontext(CONTEXT):
        yield
