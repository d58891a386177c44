"""Where a hosted model's files are: a hub id, or a folder, found from the place that the user's code names it from."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from deepserve import _context
from deepserve.errors import ModelLoadError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class ModelSource(NamedTuple):
    """`given` as the user wrote it; `file` is the one that says so, `folder` the current one at that time."""

    given: str
    file: str
    folder: str

    def resolve(self) -> str:
        """An absolute folder, or the hub id.

        A relative folder is looked for from the current folder, then from the user's file. In a pod that file is a
        copy in a bundle, without the model: it is looked for from where the bundle came from. What was a folder from
        the current one of who sent the code is that one in its pods too, wherever they run.
        Raises ModelLoadError for a folder that holds no model, for a file, and for none at all where the source cannot
        be a hub id.
        """
        if "://" in self.given:
            raise ModelLoadError(f"model source {self.given!r} is an address: give a hub id (owner/name) or a folder")
        given = _sent_folder(self.given) or os.path.expanduser(self.given)
        bases = [self.folder, *([os.path.dirname(self.file)] if self.file else ())]
        tried = [os.path.normpath(os.path.join(base, given)) for base in bases]
        places = [place for path in tried for place in (path, _original(path)) if os.path.isdir(place)]
        for place in places:
            if os.path.isfile(os.path.join(place, "config.json")):
                return place
        if places:
            raise ModelLoadError(f"model source {self.given!r}: {places[0]} holds no model, it has no config.json")
        if file := next(filter(os.path.isfile, tried), None):
            raise ModelLoadError(f"model source {self.given!r}: {file} is a file, not a model folder")
        if _HUB_ID.fullmatch(given):
            return self.given
        looked_at = " or ".join(dict.fromkeys(tried))
        raise ModelLoadError(f"model source {self.given!r}: {looked_at} is no folder")

    def from_current_folder(self) -> str:
        """The absolute folder of the model where it is found from the current folder, else empty."""
        given = os.path.expanduser(self.given)
        place = os.path.normpath(os.path.join(self.folder, given))
        return "" if os.path.isabs(given) or not os.path.isfile(os.path.join(place, "config.json")) else place


_named: dict[ModelSource, None] = {}
"""The sources that this process's models were given, in order."""


def remember_source(source: ModelSource) -> None:
    """For `sources_named_under`."""
    _named[source] = None


def sources_named_under(root: str) -> tuple[tuple[str, str], ...]:
    """Sources that files under `root` give relative to the current folder, and where they are, for the files' pods."""
    if not _named:
        return ()
    inside = os.path.join(root, "")
    found = {each.given: each.from_current_folder() for each in [*_named] if each.file.startswith(inside)}
    return tuple(sorted((given, place) for given, place in found.items() if place))


def _sent_folder(given: str) -> str:
    code = _context.bound_code()
    return dict(code.sources).get(given, "") if code is not None else ""


def _original(path: str) -> str:
    """Where a path inside the pod's copy of the user's files came from; `path` itself elsewhere."""
    code = _context.bound_code()
    if code is None or not code.root or not code.digest:
        return path
    _, found, rest = path.partition(f"{os.sep}{code.digest}{os.sep}")
    return os.path.join(code.root, rest) if found else path
