"""Where the table `orders_log` ends, told by the stream that LEDGER is now.

The table outlives its streams: when NATS was set up anew and QuestDB kept, its rows name sequences of a
stream that is gone. So a sequence counts only if LEDGER holds, at that place, the event that the row tells.
"""

from nats.js.errors import NotFoundError

from services.ledger.codec import UnknownFormat, decode_commits
from services.questdb.schema import ORDERS_LOG
from services.runtime.connections import QuestdbPool
from services.runtime.nats_client import NatsClient
from services.runtime.streams import LEDGER


class OtherStream(Exception):
    """The newest rows of the table are not of the stream that LEDGER is now; the message names one."""


async def last_logged(client: NatsClient, pool: QuestdbPool, partition: int) -> int:
    """Sequence of the last message of LEDGER whose rows are in the table; 0 when there is none.

    Raises `OtherStream`, and errors of both connections. The table exists, and QuestDB has applied what was
    written (`wait_applied`).
    """
    rows = f"FROM {ORDERS_LOG.name} WHERE ledger_partition = %s"
    ((sequence,),) = await pool.execute(f"SELECT max(stream_seq) {rows}", [partition])
    if sequence is None:
        return 0
    event = f"SELECT account, account_seq {rows} AND stream_seq = %s LIMIT 1"
    ((account, account_seq),) = await pool.execute(event, [partition, sequence])
    if not await _holds(client, sequence, account, account_seq):
        raise OtherStream(f"LEDGER has another message {sequence} than orders_log tells of")
    return int(sequence)


async def _holds(client: NatsClient, sequence: int, account: str, account_seq: int) -> bool:
    js = client.jetstream()
    if (await js.stream_info(LEDGER)).state.first_seq > sequence:
        return True  # trimmed behind the table
    try:
        message = await js.get_msg(LEDGER, sequence, direct=True)
        commits = decode_commits(message.data or b"")
    except (NotFoundError, UnknownFormat):
        return False
    return any(
        one.account == account and one.seq <= account_seq < one.seq + len(one.events) for one in commits
    )
