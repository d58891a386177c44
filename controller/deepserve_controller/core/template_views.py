"""What the choice of where a function's pods come from may see, and what it answers; read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple


class TemplateView(NamedTuple):
    """A function whose pods may be forked from a template of its own.

    is_shared: all are to come from it (see FunctionSpec).  state: of its template.  refusal: why it can have none, or
    empty.  missing: pods to start now, beside `num_pods` that are there, of which `num_bound` have loaded the
    function.  load_ms: what loading it took lately.
    """

    is_shared: bool
    state: Literal["none", "loading", "ready"]
    refusal: str
    missing: int
    num_pods: int
    num_bound: int
    max_pods: int
    load_ms: float


class PodSource(NamedTuple):
    """Start `pods` now, from the function's template or else from its environment's, and load a template if told so.

    What is missing beyond `pods` waits for that template.
    """

    pods: int
    is_from_template: bool
    is_template_wanted: bool
    reason: str
    template_id: str = ""
    """Filled in by the core, where `is_from_template`."""


ChooseSource = Callable[[TemplateView], PodSource]
