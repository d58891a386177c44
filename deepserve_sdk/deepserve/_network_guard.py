"""Refuses the network to a process: sockets other than unix ones cannot be connected, names cannot be resolved."""

from __future__ import annotations

import socket
import sys
from typing import Any

from deepserve.errors import NetworkRefused

_is_refusing = False
_is_installed = False
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def refuse_network(is_refused: bool = True) -> None:
    """From now on, or no longer. Python's own sockets only: libraries in C that open theirs are not seen.

    By an audit hook, which is installed at the first use and stays, since what libraries hold is refused as well.
    """
    global _is_refusing, _is_installed
    _is_refusing = is_refused
    if is_refused and not _is_installed:
        _is_installed = True
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _is_refusing or not event.startswith("socket."):
        return
    if event in _SENDS and args[0].family in (socket.AF_INET, socket.AF_INET6) and args[1] is not None:
        raise _refusal(f"{event.rpartition('.')[2]} to {args[1]!r}")
    if event in _NAMES and args[0] and not _is_number(args[0]):
        raise _refusal(f"looking up {args[0]!r}")


def _refusal(what: str) -> NetworkRefused:
    return NetworkRefused(
        f"{what}: tests with deepserve_local have no network; let one have it by "
        "@pytest.mark.deepserve_allow_network, all of them by `deepserve_allow_network = true` in pytest's settings"
    )


def _is_number(host: Any) -> bool:
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False
