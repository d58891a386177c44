"""The address of a controller on another host."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from deepserve.errors import InvalidOption
from deepserve.protocol.loopback import is_loopback


class Address(NamedTuple):
    host: str
    port: int
    is_secure: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.is_secure else 'http'}://{self._place}"

    @property
    def link_url(self) -> str:
        return f"{'wss' if self.is_secure else 'ws'}://{self._place}/v1/link"

    @property
    def _place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Raises InvalidOption, also for plain http to another host: the key and the code would travel in clear."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidOption(f"the controller's address is no URL: {error}") from None
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise InvalidOption(
            "the controller's address is https://host:port and nothing more; its key goes into DEEPSERVE_KEY or "
            "init(key=...), never into the address"
        )
    if parts.scheme not in ("https", "http") or not host:
        raise InvalidOption("the controller's address is https://host:port")
    is_secure = parts.scheme == "https"
    if not is_secure and not is_loopback(host):
        raise InvalidOption(
            f"http://{host} is refused: key and code would travel in clear; use https (only this machine's own address "
            "may do without)"
        )
    return Address(host, port or (443 if is_secure else 80), is_secure)
