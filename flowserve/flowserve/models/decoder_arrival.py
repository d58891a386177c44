"""DecoderArrival: a checkpoint's way into memory, part by part, while steps run that wait for one after the other.

As lambdaScale executes while it loads (arXiv 2502.09922), on one host: the first layers compute when they are there.
"""

from __future__ import annotations

import threading

import torch

from ..errors import LoadingError
from ..loading.host_copy import CACHED_CHUNK_BYTES
from ..loading.pipeline import ChunkedLoad
from .decoder import DecoderModel
from .step_order import StepOrder


class DecoderArrival:
    """Begun when it is made, in the process that computes. Its threads end with it, by themselves or by `close`.

    error: why the rest of the parts will not come.
    """

    def __init__(self, model: DecoderModel, order: StepOrder) -> None:
        self.error: LoadingError | None = None
        self._model = model
        self._order = order
        self._num_there = 0
        self._changed = threading.Condition()
        self._load = ChunkedLoad(order, order, chunk_bytes=CACHED_CHUNK_BYTES, chunks=order.chunks)
        self._thread = threading.Thread(target=self._follow, name="flowserve-arrival", daemon=True)
        self._thread.start()

    @classmethod
    def of_checkpoint(cls, model: DecoderModel) -> DecoderArrival:
        return cls(model, StepOrder(model.plan, CACHED_CHUNK_BYTES))

    def wait_for(self, part: int) -> None:
        """Until it can be computed with. Raises LoadingError where it will not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_there > part or self.error is not None)
            if self._num_there <= part:
                assert self.error is not None
                raise self.error

    def close(self) -> None:
        """Give up what is not read yet, and wait for the threads. May be called again."""
        self._load.close()
        self._thread.join()

    def _follow(self) -> None:
        try:
            for part, end in enumerate(self._order.ends):
                self._load.ready_through(end)
                if end == self._order.ends[-1]:
                    self._model.read_s = self._load.wait().seconds
                with torch.inference_mode():
                    self._model.build(part)
                with self._changed:
                    self._num_there = part + 1
                    self._changed.notify_all()
        except Exception as error:  # whatever it is: steps wait for the parts
            with self._changed:
                self.error = error if isinstance(error, LoadingError) else LoadingError(str(error))
                self._changed.notify_all()
        finally:
            self._load.close()
