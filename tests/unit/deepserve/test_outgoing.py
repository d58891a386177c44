"""What goes with the next frame, and what a link that ended refuses."""

from __future__ import annotations

import pytest

from deepserve._outgoing import Outgoing
from deepserve.errors import ControllerLost
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import CancelRequest, ForgetRequest, Message


def test_what_was_forgotten_goes_before_the_next_frame() -> None:
    sent: list[Message] = []

    def send(message: Message, payload: Buffer) -> None:
        sent.append(message)

    outgoing = Outgoing(send)
    outgoing.forget_later("rq-1")
    assert sent == []
    outgoing.send(CancelRequest("rq-2"))
    outgoing.send(CancelRequest("rq-3"))
    assert sent == [ForgetRequest("rq-1"), CancelRequest("rq-2"), CancelRequest("rq-3")]


def test_a_link_that_ended_refuses_with_its_first_error() -> None:
    outgoing = Outgoing(lambda message, payload: pytest.fail("sent on a link that has ended"))
    outgoing.close(ControllerLost("killed"))
    outgoing.close(ControllerLost("closed"))
    with pytest.raises(ControllerLost, match="killed"):
        outgoing.send(CancelRequest("rq-1"))
