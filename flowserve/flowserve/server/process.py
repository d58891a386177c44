"""The server as a process: bind, load, serve until a signal, end what runs, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from ..config import EngineConfig
from ..embedding_model import EmbeddingModel
from ..engine import Engine
from ..hub import resolve_model
from ..models.encoder_config import ENCODERS
from ..models.json_fields import read_json
from .app import Api, ServerConfig
from .connection import Connection
from .embedding_api import EmbeddingApi
from .generation_api import GenerationApi

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
        api = load_api(model, engine_config, server_config)
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


def load_api(model: str, engine_config: EngineConfig, server_config: ServerConfig) -> Api:
    """What its config.json says: a model that generates, or an encoder. Raises FlowServeError."""
    folder = resolve_model(model)
    # Of a hub id, clients know its own name, not that of a snapshot with a hash for a name.
    names = server_config.names or ((folder.resolve().name if Path(model).expanduser().is_dir() else model),)
    server_config = replace(server_config, names=names)
    if not _is_encoder(folder):
        return GenerationApi(Engine.from_folder(folder, engine_config), folder, server_config)
    encoder = EmbeddingModel(
        folder,
        dtype=engine_config.dtype,
        max_length=engine_config.max_model_len,
        num_threads=engine_config.num_threads,
        device=engine_config.device,
    )
    return EmbeddingApi(encoder, folder, server_config)


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
            print(f"FlowServe: {self._api.name} at http://{place}:{port}", flush=True)

    def _end(self) -> None:
        """The first signal starts the grace, the second ends it."""
        if not self.should_exit:
            self.should_exit = True
            asyncio.get_running_loop().call_later(self._grace_s, self._end_answers)
        else:
            self._end_answers()

    def _end_answers(self) -> None:
        self._api.end_all("the server is shutting down")


def _is_encoder(folder: Path) -> bool:
    path = folder / "config.json"
    architectures = read_json(path).get("architectures") if path.is_file() else None
    return isinstance(architectures, list) and any(name in ENCODERS for name in architectures)
