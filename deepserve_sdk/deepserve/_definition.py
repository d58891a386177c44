"""What a client tells the controller of a function, once."""

from __future__ import annotations

from typing import Literal, NamedTuple

from deepserve._pickling import EVERYTHING, Reach
from deepserve.protocol.specs import FunctionSpec


class Bundle(NamedTuple):
    """Shipped code. root: the folder here that its files come from, empty for a dump."""

    digest: str
    kind: Literal["files", "pickle"]
    content: bytes
    root: str = ""


class Definition(NamedTuple):
    """A function as the controller knows it. bundle: None where the controller has the code already. is_found: it was
    looked up by its name where it is deployed."""

    function_id: str
    spec: FunctionSpec | None
    bundle: Bundle | None
    label: str
    reach: Reach = EVERYTHING
    is_found: bool = False
