"""The server as a process: bind, load, serve until a signal, end what runs, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ..config import EngineConfig
from ..engine import Engine
from ..hub import resolve_model
from .app import Api, ServerConfig
from .connection import Connection

_AFTER_GRACE_S = 2
"""For the last words to those whose answers the grace did not suffice for."""


@dataclass(frozen=True)
class Listening:
    """port: 0 picks a free one.  grace_s: what runs when a signal comes has so long to end by itself."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace_s: float = 10.0
    access_log: bool = False


def serve(model: str, engine_config: EngineConfig, server_config: ServerConfig, listening: Listening) -> None:
    """Returns after SIGTERM or SIGINT. Raises FlowServeError for the model, OSError for the address."""
    listener = bind(listening.host, listening.port)  # before the model, which may take long to load
    try:
        folder = resolve_model(model)
        engine = Engine.from_folder(folder, engine_config)
        api = Api(engine, _named_folder(model, folder), server_config)
        config = uvicorn.Config(
            api.asgi,
            http=Connection,
            lifespan="on",
            log_level="info" if listening.access_log else "warning",
            access_log=listening.access_log,
            timeout_graceful_shutdown=int(listening.grace_s) + _AFTER_GRACE_S,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_Server(config, api, listening.grace_s).serve([listener]))
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Tells where it listens; ends on a signal as this process, not by it."""

    def __init__(self, config: uvicorn.Config, api: Api, grace_s: float) -> None:
        super().__init__(config)
        self._api = api
        self._grace_s = grace_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            place = f"[{host}]" if ":" in host else host
            print(f"FlowServe: {self._api.model.names[0]} at http://{place}:{port}", flush=True)

    def _end(self) -> None:
        """The first signal starts the grace, the second ends it."""
        if not self.should_exit:
            self.should_exit = True
            asyncio.get_running_loop().call_later(self._grace_s, self._end_answers)
        else:
            self._end_answers()

    def _end_answers(self) -> None:
        self._api.engine.end_all("the server is shutting down")


def _named_folder(model: str, folder: Path) -> Path:
    """The folder as the user knows it: of a hub id its own path, not that of a snapshot with a hash for a name."""
    return folder if Path(model).expanduser().is_dir() else Path(model)
