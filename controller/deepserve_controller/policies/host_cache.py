"""Host cache: which loaded models to keep in memory while nobody uses them (DeepServe 2.13, ServerlessLLM)."""

from __future__ import annotations

from deepserve_controller.core.memory_views import HeldTemplate


def saved_per_memory(held: HeldTemplate) -> float:
    """The milliseconds of loading that keeping it is likely to save, for each MiB that it takes.

    Small and popular models stay, large ones that few ask for go (Greedy-Dual-Size-Frequency, Cherkasova 1998; a model
    that is used less ages by what is counted as a use, not by an inflated clock).
    """
    return held.uses * max(held.load_ms, 1.0) / max(held.held_mib, 1)
