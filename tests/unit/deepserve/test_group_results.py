"""What has come of a spawned map, taken and let go in whatever order it comes."""

from __future__ import annotations

from deepserve._client import Client
from deepserve._group_results import GroupResults
from deepserve._inbox import Inbox, Item
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import CancelRequest, ForgetRequest, ItemFinished, Message, Outcome, Timings, Value


def test_a_group_whose_results_were_all_taken_is_forgotten_though_its_end_is_on_its_way() -> None:
    sent: list[Message] = []

    def send(message: Message, payload: Buffer) -> None:
        sent.append(message)

    client, inbox = Client(send, welcome=None, client_id="c", is_pod=False), Inbox("rq-1")
    results = GroupResults(client, inbox, "f", 2)
    for index in range(2):
        inbox.put_item(Item(ItemFinished("rq-1", index, Outcome("ok"), Timings(), Value()), b""))
    assert [results.take(index) for index in range(2)] == [None, None]
    results.let_go(forget=True)
    client.send(CancelRequest("rq-2"))
    assert sent == [ForgetRequest("rq-1"), CancelRequest("rq-2")]
