"""What /v1/responses answers: items of the output, and the events of a stream that tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tool_calls.events import AnswerEvent, ArgumentsDelta, CallEnd, CallStart, ReasoningDelta, TextDelta
from .answer_ids import AnswerIds
from .chat_choice import utf8
from .chunks import encode
from .logprobs import ChatTokenLogprob

Item = dict[str, Any]


class ResponseItems:
    """Grows with the events of one answer; `take` gives the server-sent events that tell of it.

    One item is open at a time: text, reasoning, or a call.  num_told: events that were told of it elsewhere.
    """

    def __init__(self, ids: AnswerIds, num_told: int = 0) -> None:
        self._ids = ids
        self.items: list[Item] = []
        self._open: Item | None = None
        self._text: list[str] = []
        self._logprobs: list[ChatTokenLogprob] = []
        """Of the open message."""
        self._events: list[bytes] = []
        self.num_told = num_told

    def add(self, event: AnswerEvent, logprobs: Sequence[ChatTokenLogprob] = ()) -> None:
        """logprobs: of the tokens that a text was made of, where they were asked for."""
        match event:
            case TextDelta():
                self._grow("message", event.text, logprobs)
            case ReasoningDelta():
                self._grow("reasoning", event.text)
            case CallStart():
                self._close()
                named = {"call_id": self._ids.call(0, event.index), "name": utf8(event.name)}
                self._begin({"type": "function_call", **named, "arguments": ""})
            case ArgumentsDelta():
                self._grow("function_call", utf8(event.text))
            case CallEnd():
                self._close()

    def finish(self, is_whole: bool, logprobs: Sequence[ChatTokenLogprob] = ()) -> None:
        """is_whole: the answer was not cut off.  logprobs: of last tokens that are no text."""
        if self._open is not None and self._open["type"] == "message":
            self._logprobs += logprobs
        self._close("completed" if is_whole else "incomplete")

    def tell(self, kind: str, **fields: Any) -> None:
        data = encode({"type": kind, "sequence_number": self.num_told, **fields})
        self._events.append(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")
        self.num_told += 1

    def skip(self) -> None:
        """What waits to be taken was told elsewhere, and counted."""
        self.num_told -= len(self._events)
        self._events = []

    def take(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)

    # --- inside ---

    @property
    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.items)}

    def _grow(self, kind: str, text: str, logprobs: Sequence[ChatTokenLogprob] = ()) -> None:
        if self._open is None or self._open["type"] != kind:
            self._close()
            self._begin(
                {"type": kind, **({"role": "assistant", "content": []} if kind == "message" else {"summary": []})}
            )
        self._text.append(text)
        if kind == "message":
            self._logprobs += logprobs
            told = list(logprobs)
            self.tell("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=told)
        elif kind == "reasoning":
            self.tell("response.reasoning_text.delta", **self._place, content_index=0, delta=text)
        else:
            self.tell("response.function_call_arguments.delta", **self._place, delta=text)

    def _begin(self, item: Item) -> None:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[item["type"]]
        self._open = {"id": self._ids.item(f"{prefix}_", len(self.items)), "status": "in_progress", **item}
        self._text, self._logprobs = [], []
        self.tell("response.output_item.added", output_index=len(self.items), item=self._open)
        if item["type"] != "function_call":
            self.tell("response.content_part.added", **self._place, content_index=0, part=self._part(""))

    def _close(self, status: str = "completed") -> None:
        item = self._open
        if item is None:
            return
        text = "".join(self._text)
        if item["type"] == "function_call":
            item = {**item, "arguments": text, "status": status}
            self.tell("response.function_call_arguments.done", **self._place, name=item["name"], arguments=text)
        else:
            part = self._part(text)
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": self._logprobs} if kind == "output_text" else {}
            self.tell(f"response.{kind}.done", **self._place, content_index=0, text=text, **more)
            self.tell("response.content_part.done", **self._place, content_index=0, part=part)
            item = {**item, "content": [part], "status": status}
        self.tell("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)
        self._open = None

    def _part(self, text: str) -> dict[str, Any]:
        assert self._open is not None
        if self._open["type"] == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}
