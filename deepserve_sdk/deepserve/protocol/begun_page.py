"""The page on which a pod notes which input of each chunk has begun, for the controller to read once the pod is dead.

A file beside the segments, mapped by the pod: a note costs no system call and outlives the process, so that a pod that
dies names the very input it ran. One record for each chunk that runs at the same time, little endian:

    8 bytes   inputs of the chunk that have begun
    120 bytes "<task id>/<attempt>" in UTF-8, padded with zeros; empty where no chunk runs
"""

from __future__ import annotations

import struct

RECORD = struct.Struct("<Q120s")
NUM_RECORDS = 32
PAGE_BYTES = RECORD.size * NUM_RECORDS


def file_name(pod_id: str) -> str:
    return f".begun-{pod_id}"


def key_of(task_id: str, attempt: int) -> bytes:
    """Empty for a name that does not fit: such a chunk is not noted."""
    key = f"{task_id}/{attempt}".encode()
    return key if len(key) <= 120 else b""


def read(page: bytes) -> dict[tuple[str, int], int]:
    """By task id and attempt, how many inputs have begun. Garbage in a record is skipped."""
    begun: dict[tuple[str, int], int] = {}
    for at in range(0, len(page) - RECORD.size + 1, RECORD.size):
        count, key = RECORD.unpack_from(page, at)
        task_id, slash, attempt = key.rstrip(b"\0").decode("utf-8", "replace").rpartition("/")
        if slash and attempt.isascii() and attempt.isdigit():
            begun[task_id, int(attempt)] = count
    return begun
