"""Deliveries: outcomes and results on their way to whoever waits for them, with the segments and refs in them."""

from __future__ import annotations

from typing import Any

import msgspec

from deepserve.protocol.framing import FrameError
from deepserve.protocol.messages import Message, Outcome, RequestFinished, Timings, Value
from deepserve_controller.service.recipients import Recipient, Recipients
from deepserve_controller.service.request_record import RequestRecord
from deepserve_controller.service.segments import Segments


class Deliveries:
    """What is for a link that is gone is given up."""

    def __init__(self, recipients: Recipients, segments: Segments) -> None:
        self._recipients = recipients
        self._segments = segments

    def send_to_all(self, record: RequestRecord, message: Message, data: bytes, is_kept: bool) -> None:
        """To whoever asked, and to those who have attached since."""
        if record.listeners:
            for link_id in record.listeners:
                self.send(link_id, message, data, is_last_reader=False)
        self.send(record.link_id, message, data, is_last_reader=not is_kept)

    def send(self, link_id: str, message: Message, data: bytes, is_last_reader: bool) -> None:
        """A reader unlinks the segment it has read, so each gets a name of its own; without one it is removed."""
        link = self._recipients.get(link_id)
        value: Value | None = getattr(message, "value", None)
        if value is not None and value.segment:
            if link is None:
                if is_last_reader:
                    self._segments.remove(value.segment)
            elif not is_last_reader:
                message = msgspec.structs.replace(message, value=self._segments.double(value))
        if link is not None:
            if value is not None and value.refs:
                self._segments.refs.given(value.refs, link_id)
            self._write(link_id, link, message, data)

    def refuse(self, link_id: str, request_id: str, text: str, code: str = "") -> None:
        link = self._recipients.get(link_id)
        if link is not None:
            link.send(RequestFinished(request_id, Outcome("refused", text, code=code), Timings()))

    def _write(self, link_id: str, link: Recipient, message: Any, data: bytes) -> None:
        value: Value | None = getattr(message, "value", None)  # many results in a frame have none
        if value is not None and value.segment:
            self._segments.delivered(link_id, value.segment)
        try:
            link.send(message, data)
        except FrameError as error:
            # The header is too large: the reader must not wait for ever because of it.
            outcome = Outcome("refused", f"the outcome cannot be sent: {error}")
            link.send(msgspec.structs.replace(message, outcome=outcome, value=Value()))
