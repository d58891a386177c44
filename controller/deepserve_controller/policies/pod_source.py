"""Pod source: whether a function's next pods are forked from a process that has loaded it (DeepServe, NPU-fork)."""

from __future__ import annotations

from deepserve_controller.core.template_views import PodSource, TemplateView

BURST_PODS = 4
"""From here on it is quicker to load the function once and fork it than to load it in each pod: a template costs a
fork, a handshake and one load (10 ms for a small function), of which each pod saves the load."""
LONG_LOAD_MS = 500.0
"""A function that takes this long to load gets its template before a burst comes."""


def fork_bursts(view: TemplateView) -> PodSource:
    """Models and classes with a snapshot always, others where several pods are missing at once or loading takes long.

    The first pod of a function without a snapshot never waits for a template.
    """
    if view.refusal:
        return PodSource(view.missing, False, False, view.refusal)
    if view.state == "ready":
        return PodSource(view.missing, True, False, "forked from its template")
    if view.is_shared:
        is_wanted = view.state == "none" and view.missing > 0
        return PodSource(0, False, is_wanted, "what its pods share is loaded once")
    first = min(view.missing, 1) if view.num_pods == 0 else 0
    if view.state == "loading":
        return PodSource(first, False, False, "its template loads")
    num_unloaded = view.missing + view.num_pods - view.num_bound
    if view.missing and num_unloaded >= BURST_PODS:  # calls of a burst arrive one by one
        return PodSource(first, False, True, f"{num_unloaded} pods at once: loaded once and forked")
    if view.load_ms >= LONG_LOAD_MS and view.num_bound and view.max_pods > 1:
        text = f"loading took {view.load_ms:.0f} ms: a template for the next pods"
        return PodSource(view.missing, False, True, text)
    return PodSource(view.missing, False, False, "few pods: each loads for itself")
