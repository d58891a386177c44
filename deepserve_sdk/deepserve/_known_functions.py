"""What this process has told its controller of functions and their code: each of it once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from deepserve._definition import Definition
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import DefineFunction, Message, PutBundle, RetireFunction

Send = Callable[[Message, Buffer], None]


class KnownFunctions:
    """Thread-safe."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._functions: set[str] = set()
        self._found: set[str] = set()
        """Told as found by their names only."""
        self._bundles: set[str] = set()
        self._roots: dict[str, str] = {}

    def __contains__(self, function_id: str) -> bool:
        return function_id in self._functions

    def define(self, definition: Definition) -> None:
        with self._lock:
            function_id = definition.function_id
            if function_id in self._functions or definition.spec is None:
                return
            if definition.is_found and function_id in self._found:
                return
            bundle = definition.bundle
            if bundle is not None and bundle.digest not in self._bundles:
                self._send(PutBundle(bundle.digest, bundle.kind), bundle.content)
                self._bundles.add(bundle.digest)
                if bundle.root:
                    self._roots[bundle.digest] = bundle.root
            self._send(DefineFunction(definition.function_id, definition.spec, definition.is_found), b"")
            (self._found if definition.is_found else self._functions).add(definition.function_id)

    def retire(self, definition: Definition) -> None:
        with self._lock:
            if definition.function_id not in self._functions:
                return
            self._functions.discard(definition.function_id)
            if definition.bundle is not None:
                self._bundles.discard(definition.bundle.digest)
            self._send(RetireFunction(definition.function_id), b"")

    def pod_roots(self, folder: str) -> dict[str, str]:
        """Folders of the pods' files below the controller's `folder`, and what they are called here."""
        return {os.path.join(folder, "bundles", digest): root for digest, root in self._roots.items()}
