"""StepOrder: the bytes of a checkpoint in the order in which a step needs them, whatever order its files have."""

from __future__ import annotations

from collections.abc import Iterator

from ..loading.chunks import Chunk, chunks_of
from .parameter import Parameter
from .plan import DecoderPlan
from .safetensors_file import SafetensorsFile


class StepOrder:
    """Source and last tier of a ChunkedLoad in one, as one file of all parameters: they come into the page cache, from
    where the checkpoint's files are mapped.

    chunks: each lies in one stored tensor, and so in one file.  ends: of each part (see `DecoderPlan.parts`).
    """

    is_direct = False

    def __init__(self, plan: DecoderPlan, chunk_bytes: int) -> None:
        self.path = plan.embedding.parts[0].tensor.file.path.parent
        self.chunks: list[Chunk] = []
        self.ends: list[int] = []
        self._places: dict[int, tuple[SafetensorsFile, int]] = {}
        size = 0
        for ranges in map(_ranges, plan.parts()):
            for file, first, length in ranges:
                for chunk in chunks_of(length, chunk_bytes):
                    self._places[size] = (file, first + chunk.offset)
                    self.chunks.append(Chunk(len(self.chunks), size, chunk.size))
                    size += chunk.size
            self.ends.append(size)
        self.size_bytes = size

    def room(self, offset: int, size: int) -> memoryview:
        file, place = self._places[offset]
        return file.memory(place, size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Of a chunk's offset. Raises LoadingError."""
        file, place = self._places[offset]
        file.bring(place, len(buffer))

    def put(self, offset: int, data: memoryview) -> None:
        raise AssertionError("all of it has room")


def _ranges(parameters: list[Parameter]) -> Iterator[tuple[SafetensorsFile, int, int]]:
    """File, first byte and length of what they are made of."""
    for parameter in parameters:
        for part in parameter.parts:
            tensor = part.tensor
            yield tensor.file, tensor.offset + part.start * tensor.row_bytes, part.num_rows * tensor.row_bytes
