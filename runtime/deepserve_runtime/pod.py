"""What every part of a pod may know of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from deepserve.protocol.messages import Welcome
from deepserve.protocol.specs import CodeRef
from deepserve_runtime.link import Link


class Pod:
    """code: what the pod is bound to, None before.

    is_copy: this process is a child that user code forked, not the pod.
    """

    def __init__(self, pod_id: str, link: Link, welcome: Welcome) -> None:
        self.pod_id = pod_id
        self.link = link
        self.segments = welcome.segments
        self._folder = welcome.folder
        self.code: CodeRef | None = None
        self.is_copy = False
        self.on_copied: Callable[[], None] | None = None
        os.register_at_fork(after_in_child=self._become_copy)

    @property
    def bundles(self) -> str:
        return os.path.join(self._folder, "bundles")

    def _become_copy(self) -> None:
        """The copy must not hold the link open: its end of file is how the controller hears of the pod's death."""
        self.is_copy = True
        self.link.close_copy()
        if self.on_copied is not None:
            self.on_copied()
