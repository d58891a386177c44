"""Generation: the completions of one HTTP request, as its handler sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from ..outputs import SequenceOutput
from .api_error import ApiError, RequestFields
from .outbox import Outbox, Piece
from .prompts import SequenceRequest


class Generation:
    """Lives on the event loop. Its handler must `close` it, however it ends."""

    def __init__(
        self,
        request_id: str,
        requests: list[SequenceRequest],
        fields: RequestFields,
        abort: Callable[[list[str]], None],
    ) -> None:
        self.requests = requests
        self.fields = fields
        self.sequence_ids = [f"{request_id}-{index}" for index in range(len(requests))]
        self.num_completions = sum(request.params.n for request in requests)
        self._abort = abort
        self._outboxes = [Outbox() for _ in range(self.num_completions)]
        self._with_news: dict[int, None] = {}
        """Completions that have something to take, in the order it came."""
        self._num_unfinished = self.num_completions
        self.is_accepted = False
        self._error: ApiError | None = None
        self._wake = asyncio.Event()

    async def accepted(self) -> None:
        """Returns when all prompts are in the engine. Raises ApiError where it refuses one of them."""
        while not self.is_accepted:
            await self._news()

    async def pieces(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What came since the last turn, by completion, until all have ended. Raises ApiError.

        Completions are counted through: those of the first prompt, those of the second, and so on.
        """
        while self._num_unfinished or self._with_news:
            if not self._with_news:
                await self._news()
            indices, self._with_news = self._with_news, {}
            taken = [(index, piece) for index in indices if (piece := self._outboxes[index].take()) is not None]
            if taken:
                yield taken

    def close(self) -> None:
        """Nobody reads on: what still runs is aborted."""
        self._abort(self.sequence_ids)

    # --- from the engine loop --------------------------------------------------------------------------

    def accept(self) -> None:
        self.is_accepted = True
        self._wake.set()

    def put(self, index: int, output: SequenceOutput) -> int:
        """Returns how much of this completion the reader has not taken, in characters."""
        outbox = self._outboxes[index]
        outbox.put(output)
        if output.finished:
            self._num_unfinished -= 1
        self._with_news[index] = None
        self._wake.set()
        return outbox.size

    def fail(self, error: ApiError) -> None:
        """The whole request ends with this error; what its reader has not taken is dropped."""
        if self._error is None:
            self._error = error
            self._abort(self.sequence_ids)
            self._wake.set()

    async def _news(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self._error is not None:
            self._wake.set()  # for whoever asks again
            raise self._error
