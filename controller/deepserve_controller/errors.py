"""What can go wrong around the controller itself; user code's failures are outcomes, not exceptions."""

from __future__ import annotations


class ControllerError(Exception):
    """Base of this package's errors; the text is for the person who started the controller."""


class UnsafeFolder(ControllerError):
    """A folder that must be private belongs to somebody else, is a link, or is open to others."""


class InvalidSettings(ControllerError):
    """Options that cannot be followed: a taken port, no such host, files that are no certificate."""


class AlreadyRunning(ControllerError):
    """Another controller holds the state folder or this user's socket."""


class StoreUnreadable(ControllerError):
    """The state folder was written by another version, or is damaged."""


class StoreUnwritable(ControllerError):
    """The state folder does not take a change, such as on a full disk; nothing of it was changed."""


class Refusal(Exception):
    """A peer is turned away with `Refused(code, text)`; nobody else notices."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class QueryError(Exception):
    """A query that cannot be answered. code: not_found, invalid, failed."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
