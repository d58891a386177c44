"""Loopback addresses: what passes between two processes of one machine may go in clear, anything else not."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """False for a name: where it leads is not known here."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
