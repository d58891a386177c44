"""Clients that speak frames over the HTTP port's WebSocket, and controllers with certificates."""

from __future__ import annotations

import json
import ssl
from typing import Any, cast

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.controller.peers import TIMEOUT_S, Client, Controller


class StreamOfMessages:
    """Stands in for the socket of a `Client`; `cut_bytes`: what one WebSocket message holds at most."""

    def __init__(self, connection: ClientConnection, cut_bytes: int = 1 << 20) -> None:
        self.connection = connection
        self.cut_bytes = cut_bytes

    def settimeout(self, timeout_s: float) -> None: ...

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), self.cut_bytes):
            self.connection.send(data[at : at + self.cut_bytes])

    def recv(self, max_bytes: int) -> bytes:
        try:
            return self.connection.recv(TIMEOUT_S, decode=False)
        except ConnectionClosed:
            return b""

    def close(self) -> None:
        self.connection.close()


def url_of(up: Controller) -> str:
    url: str = json.loads((up.runtime / "up.json").read_text())["url"]
    return url


def key_of(up: Controller) -> str:
    return (up.folder / "state/deepserve/key").read_text().strip()


def open_websocket(up: Controller, path: str = "/v1/link", **options: Any) -> ClientConnection:
    """Raises InvalidStatus."""
    headers = {"Authorization": f"Bearer {key_of(up)}"}
    url = url_of(up).replace("http", "ws", 1) + path
    plain = {"additional_headers": headers, "proxy": None, "compression": None, "max_size": None}
    return connect(url, legacy=True, **{**plain, **options})


def dial_web(up: Controller, cut_bytes: int = 1 << 20) -> Client:
    stream = StreamOfMessages(open_websocket(up), cut_bytes)
    return Client(cast(Any, stream))


def write_certificate(folder: Any, authority: trustme.CA, host: str = "127.0.0.1") -> tuple[str, str]:
    """Paths of a certificate for `host` and of its key."""
    issued = authority.issue_cert(host)
    certificate, key = folder / f"{host}.pem", folder / f"{host}-key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return str(certificate), str(key)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
