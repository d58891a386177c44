"""`spawn_map`: hands all inputs of a map over and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any

from deepserve._call_group import CallGroup
from deepserve._callee import Callee
from deepserve._client import Client
from deepserve._group_results import GroupResults
from deepserve._map_batch import InputBatch
from deepserve._map_inputs import Arguments, InlineInputs, Inputs, read_blocking, read_on_loop
from deepserve._map_outputs import with_index

MAX_UNFINISHED = 10_000
"""Inputs that were handed over and have not ended: with more, their reader waits, so that memory stays bounded."""


class _Spawning:
    def __init__(self, callee: Callee, client: Client, kwargs: dict[str, Any]) -> None:
        self._callee = callee
        self._kwargs = kwargs
        self._definition = callee.define()
        self.client = client
        self.inbox = callee.open_map(client, keep=True)
        self.results = GroupResults(client, self.inbox, self._definition.label, None)
        self.inbox.group = self.results
        self._batch = InputBatch(client, self.inbox)
        self._inputs: Inputs = InlineInputs(())
        self.is_over = False

    def read(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def go_on(self) -> bool:
        """Hand over what is at hand and may be read; False where something has to be waited for."""
        self.inbox.has_inputs = False
        self.results.collect()
        num_before = self._batch.num_added
        limit = self.results.num_done + MAX_UNFINISHED
        while not self.is_over and self._batch.num_added < limit:
            try:
                arguments = self._inputs.take(limit)
            except StopIteration:
                return self._end()
            if arguments is None:
                break
            self._add(arguments)
            if not self._inputs.are_at_hand:
                break
        self._batch.flush()
        self.is_over = self.is_over or self.inbox.is_over  # cancelled or refused: nobody wants the rest
        return self.is_over or self._batch.num_added > num_before

    def _end(self) -> bool:
        self.results.know_total(self._batch.num_added)
        self._batch.end()
        self.is_over = True
        return True

    def _add(self, arguments: Arguments) -> None:
        try:
            value, payload, depends_on = self._callee.encode(self.client, self._definition, arguments, self._kwargs)
        except Exception as error:
            raise with_index(error, self._batch.num_added) from error.__cause__
        self._batch.add(value, payload, depends_on)

    def group(self) -> CallGroup[Any]:
        self._inputs.close()
        return CallGroup(self.client, self.results)

    def give_up(self) -> None:
        """The inputs could not be read to their end: the rest of it is cancelled too."""
        self._inputs.close()
        self.client.abandon(self.inbox)
        self.results.let_go(forget=False)
        self.client.outgoing.forget_later(self.inbox.request_id)


def spawn_map(callee: Callee, inputs: Iterable[Arguments], kwargs: dict[str, Any], *, may_wait: bool) -> CallGroup[Any]:
    """Raises what reading the inputs raises; UnpicklableArgument, ValueTooLarge, with `input_index`."""
    spawning = _Spawning(callee, callee.blocking_client("spawn_map"), kwargs)
    try:
        spawning.read(read_blocking(inputs, spawning.inbox.put_inputs, may_wait=may_wait))
        while not spawning.is_over:
            if not spawning.go_on():
                spawning.client.waiting.for_news(spawning.inbox)
    except BaseException:
        spawning.give_up()
        raise
    return spawning.group()


async def spawn_map_async(
    callee: Callee,
    client: Client,
    inputs: Iterable[Arguments] | AsyncIterable[Arguments],
    kwargs: dict[str, Any],
    *,
    may_wait: bool,
) -> CallGroup[Any]:
    spawning = _Spawning(callee, client, kwargs)
    try:
        await client.controller.wait_on_loop()
        spawning.read(read_on_loop(inputs, spawning.inbox.put_inputs, may_wait=may_wait))
        while not spawning.is_over:
            if not spawning.go_on():
                await client.waiting.for_news_async(spawning.inbox)
    except BaseException:
        spawning.give_up()
        raise
    return spawning.group()
