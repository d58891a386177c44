"""A controller on another host: its address, its key, and the way there."""

from __future__ import annotations

import os
import re
import ssl
from typing import Any

import msgspec
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from deepserve import settings
from deepserve._client import Client
from deepserve._client_link import client_on, hello_of, say
from deepserve._distant_address import Address, parse_url
from deepserve._distant_segments import LinkSegments
from deepserve._segments import distant
from deepserve._tls_socket import TlsSocket
from deepserve._websocket_link import MESSAGE_BYTES, WebSocketLink
from deepserve.errors import ControllerUnreachable, DeepServeError, InvalidOption, KeyRefused, ProtocolError
from deepserve.protocol.messages import Message, Refused, Welcome

OPEN_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0
_KEY = re.compile(r"[!-~]+")

TOKEN_PREFIX = "sk-"
TOKENS_OPEN = (
    ", which looks like one of `deepserve token new`: these open the OpenAI API under /v1 and nothing else; "
    "DEEPSERVE_KEY is the one in the file `key` of the controller's state folder"
)


def connect_distant(url: str, key: str) -> Client:
    """A connected client. Raises ControllerUnreachable, KeyRefused, InvalidOption, ProtocolError."""
    address = parse_url(url)
    if not key:
        raise KeyRefused(f"{address.url} wants a key: set DEEPSERVE_KEY, or init(key=...)")
    if not _KEY.fullmatch(key):
        raise InvalidOption("the key (DEEPSERVE_KEY) holds spaces or characters that no key has")
    link = WebSocketLink(_open(address, key))
    client_id = os.urandom(3).hex()
    try:
        link.send(hello_of(client_id))
        answer = link.read_one(OPEN_TIMEOUT_S).message
    except (OSError, ProtocolError) as error:
        link.close()
        raise ControllerUnreachable(f"no DeepServe controller answers at {address.url}: {error}") from None
    if not isinstance(answer, Welcome):
        link.close()
        if isinstance(answer, Refused):
            raise ProtocolError(f"the controller at {address.url} refused this connection: {answer.text}")
        raise ProtocolError(f"what answers at {address.url} is no DeepServe controller of this version")
    say(f"using the controller at {address.url}")
    return _client_over(link, answer, client_id, address)


def _client_over(link: WebSocketLink, welcome: Welcome, client_id: str, address: Address) -> Client:
    """Its segments lie elsewhere; for the rest it is a client like any other."""
    segments = LinkSegments(link.send)
    folder = f"{address.url}/#{client_id}"
    distant[folder] = segments
    client = Client(
        link.send, welcome=msgspec.structs.replace(welcome, segments=folder), client_id=client_id, is_pod=False
    )

    def deliver(message: Message, payload: bytes) -> None:
        if not segments.deliver(message, payload):
            client.deliver(message, payload)

    def on_closed(error: DeepServeError) -> None:
        segments.on_closed(error)
        client.on_closed(error)

    return client_on(link, client, deliver, on_closed)


def _open(address: Address, key: str) -> ClientConnection:
    """Raises ControllerUnreachable, KeyRefused, InvalidOption."""
    options: dict[str, Any] = {"ssl": _tls_context()} if address.is_secure else {"proxy": None}
    try:
        connection: ClientConnection = connect(
            address.link_url,
            additional_headers={"Authorization": f"Bearer {key}"},
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            max_size=MESSAGE_BYTES,
            legacy=True,
            **{"create_connection": _connection_on, **options},
        )
        return connection
    except InvalidStatus as error:
        status = error.response.status_code
        if status == 401:
            token = TOKENS_OPEN if key.startswith(TOKEN_PREFIX) else ""
            raise KeyRefused(f"the controller at {address.url} does not accept this key{token}") from None
        raise ControllerUnreachable(
            f"what answers at {address.url} (HTTP {status}) is no DeepServe controller of this version"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise ControllerUnreachable(
            f"the certificate of {address.url} is not trusted: {error.verify_message} (DEEPSERVE_CA names a file of "
            "certificates to trust)"
        ) from None
    except (OSError, EOFError, WebSocketException, ImportError) as error:
        raise ControllerUnreachable(f"no DeepServe controller answers at {address.url}: {error}") from None


def _connection_on(sock: Any, *arguments: Any, **options: Any) -> Any:
    """On a socket that may be read and written at once."""
    one_at_a_time: Any = TlsSocket(sock) if isinstance(sock, ssl.SSLSocket) else sock
    return ClientConnection(one_at_a_time, *arguments, **options)


def _tls_context() -> ssl.SSLContext:
    """Raises InvalidOption where DEEPSERVE_CA names no file of certificates."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca := settings.current_settings().ca:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise InvalidOption(f"DEEPSERVE_CA={ca!r} is no file of certificates: {error}") from None
    return context
