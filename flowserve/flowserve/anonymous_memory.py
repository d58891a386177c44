"""Anonymous memory of a size that somebody asked for: it reads as zeros and is taken where it is written."""

from __future__ import annotations

import mmap

from .errors import InvalidConfigError


def anonymous_memory(num_bytes: int, purpose: str) -> mmap.mmap:
    """Raises InvalidConfigError that names the purpose where the machine has not so much."""
    try:
        return mmap.mmap(-1, num_bytes)
    except (OSError, OverflowError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "more than can be addressed"
        raise InvalidConfigError(f"there is no memory of {num_bytes} bytes for {purpose}: {reason}") from error
