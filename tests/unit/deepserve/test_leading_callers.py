"""Callers that read the link themselves: they leave it whatever interrupts them, and nobody else makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepserve._client import Client
from deepserve._inbox import Inbox
from deepserve.protocol.framing import Buffer, Frame
from deepserve.protocol.messages import CancelRequest, Message, Outcome, RequestFinished, Timings


class InterruptedLink:
    """Ctrl-C comes when the result was read and the link was about to be left."""

    def __init__(self) -> None:
        self.is_led = False

    def begin_leading(self) -> None:
        self.is_led = True

    def lead(self, is_awaited: Callable[[Frame], bool]) -> bool:
        self.begin_leading()
        assert is_awaited(Frame(RequestFinished("rq-1", Outcome("ok"), Timings()), b""))
        raise KeyboardInterrupt

    def stop_leading(self) -> None:
        self.is_led = False


def client_on(link: InterruptedLink, sent: list[Message]) -> Client:
    def send(message: Message, payload: Buffer) -> None:
        sent.append(message)

    return Client(send, welcome=None, client_id="c", is_pod=False, leading=link)


def test_an_interrupted_caller_leaves_the_link_to_others_though_its_result_is_there() -> None:
    link = InterruptedLink()
    client, inbox = client_on(link, []), Inbox("rq-1")
    with pytest.raises(KeyboardInterrupt):
        client.waiting.for_end(inbox)
    assert inbox.is_over and not link.is_led


def test_a_stream_that_a_finaliser_lets_go_does_not_disturb_whoever_reads_the_link() -> None:
    link, sent = InterruptedLink(), list[Message]()
    client = client_on(link, sent)
    link.begin_leading()
    client.abandon(Inbox("rq-2"))
    assert link.is_led and sent == [CancelRequest("rq-2")]
