"""Requests on their way: what is held of a kept map while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deepserve.protocol.map_messages import ItemsFinished
from deepserve.protocol.messages import ItemFinished, OpenRequest, Outcome, Timings, Value
from deepserve.protocol.model_io import ContextInput
from deepserve_controller.core.actions import FinishRequest
from deepserve_controller.core.events import NO_PAYLOAD
from deepserve_controller.errors import StoreUnwritable
from deepserve_controller.service.contexts import Contexts
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import Delivery, KeptResults
from deepserve_controller.service.segments import Segments


def no_timer(at_s: float, callback: object) -> None: ...


class Told:
    """In place of the core loop."""

    def give(self, event: object) -> None: ...


class Full:
    """Records on a disk that is full."""

    def all(self) -> list[tuple[str, bytes]]:
        return []

    def put(self, name: str, described: bytes) -> None:
        raise StoreUnwritable("the disk is full")

    def remove(self, *names: str) -> None:
        raise StoreUnwritable("the disk is full")


class Reader:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def send(self, message: Any, payload: Any = b"") -> None:
        self.got.append(message)


def test_whoever_makes_a_context_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    cores: Any = Told()
    recipients, reader, segments = Recipients(), Reader(), Segments(str(tmp_path))
    recipients.add("link-1", reader)
    kept = KeptResults(segments, ttl_s=60, max_bytes=1 << 20, call_at=no_timer)
    requests = Requests(cores, recipients, Functions(cores), kept, segments, Contexts(records=Full()))
    data = msgspec.msgpack.encode(ContextInput("ctx-1", [{"role": "user", "content": "x"}], 10.0))
    value = Value("msgpack", len(data))
    requests.open("link-1", OpenRequest("rq", "fn", method="cache", value=value, context_id="ctx-1"), data)
    requests.finish(FinishRequest("rq", "link-1", Outcome("ok"), Timings(), NO_PAYLOAD, 0, False))
    [finished] = reader.got
    assert (finished.outcome.kind, "the disk is full" in finished.outcome.detail) == ("refused", True)
    assert not requests.running


def test_a_running_map_that_is_forgotten_drops_results_of_both_kinds(tmp_path: Path) -> None:
    """A frame with many results carries no single value; one in a segment does."""
    cores: Any = Told()
    segments = Segments(str(tmp_path))
    kept = KeptResults(segments, ttl_s=60, max_bytes=1 << 20, call_at=no_timer)
    requests = Requests(cores, Recipients(), Functions(cores), kept, segments)
    requests.open("link-gone", OpenRequest("rq", "fn", "map", keep=True), b"")
    record = requests.running["rq"]
    (tmp_path / "v-2").touch()
    requests.deliver_item(record, Delivery(0, ItemsFinished("rq", 0, [1, 1], Timings()), b"ab"))
    large = ItemFinished("rq", 2, Outcome("ok"), Timings(), Value("pickle", 5, segment="v-2"))
    requests.deliver_item(record, Delivery(2, large, b""))
    assert len(record.held) == 2 and (tmp_path / "v-2").exists()
    requests.forget("rq")
    assert not record.held and not (tmp_path / "v-2").exists()
