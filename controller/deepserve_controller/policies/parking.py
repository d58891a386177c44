"""Parking: what becomes of an idle pod whose memory somebody else needs."""

from __future__ import annotations

from deepserve_controller.core.memory_views import IdlePod, Parking


def models_sleep(pod: IdlePod) -> Parking:
    """A model sleeps: waking it takes a fraction of loading it. Asked for more than that, and of a function, it ends.

    (vLLM's sleep mode, level 1; DeepServe's executors whose weights stay in host memory, 2.12.)
    """
    if pod.kind != "model":
        return Parking(0, f"idle for {pod.idle_s:.3g} s")
    if pod.is_asleep:
        return Parking(0, f"asleep, idle for {pod.idle_s:.3g} s, and more is needed")
    return Parking(1, f"asleep: idle for {pod.idle_s:.3g} s")
