"""Whose contexts are: what one key made no other key uses, and nobody but its processes is told of all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from deepserve.protocol.messages import OpenRequest, Outcome, Value
from deepserve.protocol.model_io import ContextInput, Generated
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import StoreUnwritable
from deepserve_controller.service.contexts import Contexts
from deepserve_controller.service.openai.contexts import read_context
from deepserve_controller.service.store import NoRecords
from tests.unit.deepserve_controller_service.openai_peers import Asked, Setup

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()


class Tenants(Setup):
    """Three keys: those of two tenants, and a process's; `made`: the context of each, and one of the SDK's."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts = cast(Any, self.pods).contexts = Contexts()
        self.recipients.add("link-1", self.exchanges)
        self.secrets = {"a": self.keys.new("a")[1], "b": self.keys.new("b")[1], "process": self.keys.new_for("link-1")}
        self.made = {who: self.make(read_context(BODY, self.key(who))) for who in self.secrets}
        self.made["sdk"] = self.make(ContextInput("ctx-0123", [{"role": "user", "content": "hi"}], 600.0))

    def key(self, who: str) -> Any:
        return self.keys.find(self.secrets[who])

    def make(self, context: ContextInput) -> str:
        data = msgspec.msgpack.encode(context)
        message = OpenRequest("rq-1", "fn-tiny", method="cache", context_id=context.context_id)
        self.contexts.opened(message, Payload(Value("msgpack", len(data)), data), "models/tiny")
        self.contexts.finished("rq-1", Outcome("ok"), msgspec.msgpack.encode(Generated("", "stop", 7, 1)))
        return context.context_id

    async def ask(self, who: str, path: str, method: str = "GET", body: Any = None) -> Asked:
        asked = Asked(
            self.gateway.asgi, path, None if body is None else json.dumps(body).encode(), self.secrets[who], method
        )
        await asked.done
        return asked


def run(test: Callable[[Tenants], Awaitable[None]]) -> None:
    async def main() -> None:
        setup = Tenants()
        await asyncio.wait_for(test(setup), 20)
        setup.check_nothing_left()

    asyncio.run(main())


def test_a_key_is_told_of_its_own() -> None:
    async def test(setup: Tenants) -> None:
        async def listed(who: str) -> set[str]:
            found = json.loads((await setup.ask(who, "/contexts")).body)["data"]
            return {card["id"] for card in found}

        assert await listed("a") == {setup.made["a"]} and await listed("b") == {setup.made["b"]}
        assert await listed("process") == set(setup.made.values())

    run(test)


def test_another_keys_context_is_not_there() -> None:
    async def test(setup: Tenants) -> None:
        theirs = setup.made["b"]
        chat = json.loads(BODY) | {"context_id": theirs}
        for path, method, body in (
            (f"/contexts/{theirs}", "GET", None),
            (f"/contexts/{theirs}", "POST", {"ttl": 60}),
            (f"/contexts/{theirs}", "DELETE", None),
            ("/contexts", "POST", chat),
            ("/chat/completions", "POST", chat),
        ):
            asked = await setup.ask("a", path, method, body)
            assert (asked.status, asked.error["code"]) == (404, "context_not_found"), path
            assert theirs in asked.error["message"]
        assert not setup.pods.opened and len(setup.contexts) == 4
        for who in ("b", "process"):
            assert (await setup.ask(who, f"/contexts/{theirs}")).status == 200

    run(test)


def test_what_processes_made_is_for_who_is_told_its_id() -> None:
    async def test(setup: Tenants) -> None:
        for made in (setup.made["process"], setup.made["sdk"]):
            assert (await setup.ask("a", f"/contexts/{made}")).status == 200
        setup.pods.on_open = setup.pods.end
        asked = await setup.ask("a", "/chat/completions", "POST", json.loads(BODY) | {"context_id": setup.made["sdk"]})
        assert asked.status == 200 and [each.context_id for each in setup.pods.opened.values()] == [setup.made["sdk"]]

    run(test)


class Disk(NoRecords):
    is_full = False

    def put(self, name: str, described: bytes) -> None:
        if self.is_full:
            raise StoreUnwritable("the state folder takes no change: database or disk is full")

    def remove(self, *names: str) -> None:
        for name in names:
            self.put(name, b"")


def test_a_field_that_is_missing_or_wrong_is_named() -> None:
    async def test(setup: Tenants) -> None:
        message = {"role": "user", "content": "hi"}
        for path, body, param in (
            ("/contexts", {}, "model"),
            ("/contexts", {"model": "tiny"}, "messages"),
            ("/contexts", {"model": "tiny", "messages": [message], "ttl": 0}, "ttl"),
            (f"/contexts/{setup.made['a']}", {}, "ttl"),
            (f"/contexts/{setup.made['a']}", {"ttl": "long"}, "ttl"),
        ):
            asked = await setup.ask("a", path, "POST", body)
            assert (asked.status, asked.error["param"]) == (400, param), asked.error

    run(test)


def test_a_full_disk_is_the_servers_fault_and_leaves_what_there_is() -> None:
    async def test(setup: Tenants) -> None:
        disk = Disk()
        setup.contexts = cast(Any, setup.pods).contexts = Contexts(records=disk)
        mine = setup.make(read_context(BODY, setup.key("a")))
        disk.is_full = True
        for method, body in (("POST", {"ttl": 60}), ("DELETE", None)):
            asked = await setup.ask("a", f"/contexts/{mine}", method, body)
            assert (asked.status, asked.error["type"], asked.error["code"]) == (500, "server_error", "not_kept")
            assert "disk is full" in asked.error["message"]
        told = await setup.ask("a", f"/contexts/{mine}")
        assert told.status == 200 and json.loads(told.body)["ttl"] == 600

    run(test)
