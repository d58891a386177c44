"""Addresses and keys of controllers on other hosts; the way there is tested in integration/controller."""

from __future__ import annotations

import pytest

from deepserve import _controller_choice, _current_client, settings
from deepserve._controller_choice import Choice
from deepserve._distant_address import parse_url
from deepserve._distant_segments import LinkSegments
from deepserve._segments import SegmentGone
from deepserve.errors import ControllerLost, InvalidOption, KeyRefused, ValueTooLarge
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import FetchValue, Message, PutValue, ValueContent, ValueStored


@pytest.mark.parametrize(
    ("url", "link_url"),
    [
        ("https://box.example:8443", "wss://box.example:8443/v1/link"),
        ("https://box.example/", "wss://box.example:443/v1/link"),
        ("https://[2001:db8::1]:1", "wss://[2001:db8::1]:1/v1/link"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/link"),
        ("http://localhost:8000", "ws://localhost:8000/v1/link"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/link"),
    ],
)
def test_addresses(url: str, link_url: str) -> None:
    assert parse_url(url).link_url == link_url
    assert _controller_choice._parse_engine(url) == Choice("distant", parse_url(url).url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://box.example:8000", "in clear"),
        ("http://127.0.0.1.evil.example", "in clear"),
        ("http://0.0.0.0:1", "in clear"),
        ("https://user:secret@box.example", "DEEPSERVE_KEY"),
        ("https://box.example/?key=secret", "DEEPSERVE_KEY"),
        ("https://box.example/path", "nothing more"),
        ("https://", "https://host:port"),
        ("https://box.example:notaport", "no URL"),
        ("https://[::1", "no URL"),
    ],
)
def test_addresses_that_are_refused(url: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_current_client, "_client", None)  # another test's may be in use
    with pytest.raises(InvalidOption, match=text) as refusal:
        _controller_choice.init(url)
    assert "secret" not in str(refusal.value)


def test_a_key_is_wanted_and_never_shown() -> None:
    try:
        settings.use_settings(settings.Settings(url="https://box.example", key="secret"))
        assert "secret" not in repr(settings.current_settings())
        settings.use_settings(settings.Settings(url="https://box.example"))
        with pytest.raises(KeyRefused, match="DEEPSERVE_KEY"):
            _controller_choice.connect()
    finally:
        settings.use_settings(None)


class FarSide:
    """Answers like a controller, at once and on the same thread."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.content = b""
        self.most_ahead = 0
        self.segments = LinkSegments(self.take)

    def take(self, message: Message, payload: Buffer) -> None:
        if isinstance(message, PutValue):
            self.content += bytes(payload)
            if len(self.content) == message.size_bytes or self.error:
                self.segments.deliver(ValueStored(message.segment, self.error), b"")
        elif isinstance(message, FetchValue):
            piece = self.content[message.offset : message.offset + message.size_bytes]
            self.segments.deliver(ValueContent(message.fetch_id, message.offset, self.error), piece)


def test_a_value_there_and_back() -> None:
    far, content = FarSide(), bytes(range(256)) * 10_000
    assert far.segments.write([content[:7], memoryview(content)[7:]], len(content), "v").startswith("u-")
    assert far.segments.read("u-1", len(content), unlink=True) == content
    assert not far.segments.deliver(PutValue("u-1", 1), b"")
    far.segments.deliver(ValueContent(99, 0), b"late")  # of a reader that was interrupted


def test_a_value_that_finds_no_room_and_one_that_is_gone() -> None:
    with pytest.raises(ValueTooLarge, match="no room"):
        FarSide("no room").segments.write([b"x"], 1, "v")
    with pytest.raises(SegmentGone, match="gone"):
        FarSide("gone").segments.read("u-1", 1, unlink=False)


def test_after_the_end_nothing_waits() -> None:
    def end(message: Message, payload: Buffer) -> None:
        segments.on_closed(ControllerLost("ended"))

    segments = LinkSegments(end)
    with pytest.raises(ControllerLost, match="ended"):
        segments.read("u-1", 1, unlink=False)
    with pytest.raises(ControllerLost, match="ended"):
        segments.write([b"x"], 1, "v")
