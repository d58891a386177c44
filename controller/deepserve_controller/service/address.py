"""Where the HTTP port may listen, and what it is called."""

from __future__ import annotations

import ipaddress
import socket
import ssl

from deepserve.protocol.loopback import is_loopback
from deepserve_controller.errors import InvalidSettings


def check_host(host: str, *, has_tls: bool) -> None:
    """Raises InvalidSettings for what is no host, and for an address that others reach, without TLS: the key would
    travel in clear."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidSettings(f"--host {host}: no address of this name is known ({error})") from None
    if not has_tls and not is_loopback(host):
        raise InvalidSettings(f"--host {host} can be reached from other machines: give --tls-cert and --tls-key")


def load_tls(certificate: str, key: str) -> ssl.SSLContext | None:
    """None without both files. Raises InvalidSettings where they cannot be used."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise InvalidSettings("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise InvalidSettings(f"{certificate} and {key} are no certificate and its key: {error}") from None
    return context


def _no_password() -> str:
    """Nobody is there to be asked."""
    raise ValueError("the key is encrypted")


def url_of(listener: socket.socket, *, has_tls: bool) -> str:
    """As clients give it: a listener on every address goes by the host's name."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = socket.gethostname()
    elif address.version == 6:
        host = f"[{host}]"
    return f"{'https' if has_tls else 'http'}://{host}:{port}"
