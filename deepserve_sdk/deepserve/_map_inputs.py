"""The inputs of a map: read beside the loop over its outputs, for an input that comes late holds no output back."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from typing import Any

from deepserve._event_loop import start_beside, wait_for_wake

Arguments = tuple[Any, ...]


def may_wait(inputs: tuple[Any, ...]) -> bool:
    """Reading them may take time; a container's items are there."""
    return not all(isinstance(source, Sized) for source in inputs)


class InlineInputs:
    """Read in the loop itself. are_at_hand: the next one costs no time, as those of a container do not."""

    def __init__(self, inputs: Iterable[Arguments], *, are_at_hand: bool = True) -> None:
        self._iterator = iter(inputs)
        self.are_at_hand = are_at_hand

    def take(self, limit: int) -> Arguments | None:
        """The next input. Raises StopIteration, and what reading raises."""
        return next(self._iterator)

    def close(self) -> None: ...


class _ReadAhead:
    """Inputs on their way from the one who reads them; `news` is called when there are some, or no more will come."""

    are_at_hand = True
    """Those that `take` gives."""

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._read: deque[Arguments] = deque()
        self._num_read = 0
        self._limit = 0
        self._end: BaseException | None = None

    def take(self, limit: int) -> Arguments | None:
        """The next input, None while it is being read; at most `limit` are ever read. Raises StopIteration at their
        end, and what reading raises."""
        if self._read:
            return self._read.popleft()
        if self._end is not None and not self._read:
            raise self._end
        if limit > self._limit:
            self._allow(limit)
        return None

    def _allow(self, limit: int) -> None:
        raise NotImplementedError

    def _put(self, arguments: Arguments) -> None:
        self._num_read += 1
        self._read.append(arguments)
        self._news()

    def _put_end(self, end: BaseException) -> None:
        self._end = end
        self._news()


class ThreadInputs(_ReadAhead):
    """Read by a thread of their own, in the caller's context."""

    def __init__(self, inputs: Iterable[Arguments], news: Callable[[], None]) -> None:
        super().__init__(news)
        self._may_read = threading.Condition()
        self._is_closed = False
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._read_all, iter(inputs)), name="deepserve-inputs", daemon=True).start()

    def close(self) -> None:
        with self._may_read:
            self._is_closed = True
            self._may_read.notify()

    def _allow(self, limit: int) -> None:
        with self._may_read:
            self._limit = limit
            self._may_read.notify()

    def _read_all(self, iterator: Iterator[Arguments]) -> None:
        try:
            while True:
                with self._may_read:
                    self._may_read.wait_for(lambda: self._is_closed or self._num_read < self._limit)
                if self._is_closed:
                    return
                self._put(next(iterator))
        except BaseException as end:  # StopIteration, or what the script's own iterator raises
            self._put_end(end)


class TaskInputs(_ReadAhead):
    """Read by one task beside the caller's on the event loop."""

    def __init__(self, inputs: AsyncIterable[Arguments], news: Callable[[], None]) -> None:
        super().__init__(news)
        self._wake: Callable[[], None] | None = None
        self.close = start_beside(lambda: self._read_all(inputs))

    def _allow(self, limit: int) -> None:
        self._limit = limit
        if self._wake is not None:
            self._wake()

    def _register(self, wake: Callable[[], None]) -> bool:
        self._wake = wake
        return self._num_read >= self._limit

    async def _read_all(self, inputs: AsyncIterable[Arguments]) -> None:
        try:
            iterator = aiter(inputs)
            while True:
                while self._num_read >= self._limit:
                    await wait_for_wake(self._register, None)
                self._put(await anext(iterator))
        except StopAsyncIteration:
            self._put_end(StopIteration())
        except Exception as error:  # what the script's own iterator raises
            self._put_end(error)
        except BaseException as error:  # cancelled: by `close`, or inside the script's iterator
            self._put_end(error)
            raise


Inputs = InlineInputs | ThreadInputs | TaskInputs


def read_blocking(inputs: Iterable[Arguments], news: Callable[[], None], *, may_wait: bool) -> Inputs:
    """For a caller that blocks. may_wait: reading may take time, in which outputs go on."""
    return ThreadInputs(inputs, news) if may_wait else InlineInputs(inputs)


def read_on_loop(
    inputs: Iterable[Arguments] | AsyncIterable[Arguments], news: Callable[[], None], *, may_wait: bool
) -> Inputs:
    """For a caller on an event loop, whose thread any other iterable is read on."""
    if isinstance(inputs, AsyncIterable):
        return TaskInputs(inputs, news)
    return InlineInputs(inputs, are_at_hand=not may_wait)
