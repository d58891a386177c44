"""The server as a process: bind, load, serve until a signal, end what runs, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import gc
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import uvicorn
import uvicorn.config

from ..config import EngineConfig
from ..embedding_model import EmbeddingModel
from ..engine import Engine
from ..engine_setup import threads
from ..errors import AddressError, InvalidConfigError
from ..hub import resolve_model
from ..kv_profile import with_kv_budget
from ..model_parts import load_with_tokenizer
from ..models.config import read_model_config
from ..models.encoder_config import is_embedding_model
from ..version import __version__
from .app import Api, ServerConfig
from .connection import ServerConnection
from .embedding_api import EmbeddingApi
from .generation_api import GenerationApi
from .startup_log import age_s, say, timed

_EMBEDDING_OPTIONS = ("dtype", "quantization", "max_model_len", "num_threads", "device", "seed")
"""Of EngineConfig, what means something where nothing is generated: the seed means nothing, and takes nothing away."""

_LOG_CONFIG = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
# Like all that is logged: whoever reads stdout waits for the address, and may read no further.
_LOG_CONFIG["handlers"]["access"]["stream"] = "ext://sys.stderr"

MAX_GRACE_S = 86_400.0
_AFTER_GRACE_S = 2
"""For the last words to those whose answers the grace did not suffice for."""


@dataclass(frozen=True)
class Listening:
    """port: 0 picks a free one.  grace_s: what runs when a signal comes has so long to end by itself.

    Raises InvalidConfigError.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace_s: float = 10.0
    access_log: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.grace_s <= MAX_GRACE_S:
            raise InvalidConfigError(f"grace_s must be 0 to {MAX_GRACE_S:.0f} seconds, got {self.grace_s}")


def serve(model: str, engine_config: EngineConfig, server_config: ServerConfig, listening: Listening) -> None:
    """Returns after SIGTERM or SIGINT. Raises FlowServeError, for the address AddressError."""
    listener = bind(listening.host, listening.port)  # before the model, which may take long to load
    say(f"FlowServe {__version__} and torch {torch.__version__}, imported {age_s():.1f} s after the process began")
    try:
        api = load_api(model, engine_config, server_config)
        # What is loaded by now (torch, the vocabulary, the routes) stays until the end. Left to the collector, each of
        # its full runs would walk through all of it: tens of milliseconds in which no token leaves.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            api.asgi,
            http=ServerConnection,
            lifespan="on",
            log_config=_LOG_CONFIG,
            log_level="info" if listening.access_log else "warning",
            access_log=listening.access_log,
            timeout_graceful_shutdown=int(listening.grace_s) + _AFTER_GRACE_S,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_Server(config, api, listening.grace_s).serve([listener]))
    finally:
        listener.close()


def load_api(model: str, engine_config: EngineConfig, server_config: ServerConfig) -> Api:
    """What the folder says: a model that generates, or one that embeds. Raises FlowServeError."""
    folder = resolve_model(model)
    # Of a hub id, clients know its own name, not that of a snapshot with a hash for a name.
    names = server_config.names or ((folder.resolve().name if Path(model).expanduser().is_dir() else model),)
    server_config = replace(server_config, names=names)
    if is_embedding_model(folder):
        if server_config.allow_sleep:
            raise InvalidConfigError(f"allow_sleep is for models that generate, and {str(folder)!r} embeds")
        return EmbeddingApi(_embedding_model(folder, engine_config), folder, server_config)
    return GenerationApi(_engine(folder, engine_config), folder, server_config)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises AddressError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that no name can have
        raise _address_error(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _address_error(host, port, error) from error
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
        listeners = sockets or []
        places = [listener.getsockname()[:2] for listener in listeners]
        try:
            await super().startup(sockets)
            for listener in listeners:
                _check_listens(listener)
        except OSError as error:  # two servers may bind an address while none listens; the other was faster
            await self.lifespan.shutdown()
            host, port = places[0]
            raise _address_error(host, port, error) from error
        for host, port in places:
            say(f"ready {age_s():.1f} s after the process began, at http://{_place(host, port)}")
            print(f"FlowServe: {self._api.name} at http://{_place(host, port)}", flush=True)

    def _end(self) -> None:
        """The first signal starts the grace, the second ends it."""
        if not self.should_exit:
            self.should_exit = True
            asyncio.get_running_loop().call_later(self._grace_s, self._end_answers)
        else:
            self._end_answers()

    def _end_answers(self) -> None:
        self._api.end_all("the server is shutting down")
        for connection in list(self.server_state.connections):
            if isinstance(connection, ServerConnection):
                connection.end_receiving()


def _engine(folder: Path, config: EngineConfig) -> Engine:
    model = read_model_config(folder)
    say(f"model: {model.architecture}, {model.num_parameters / 1e6:,.1f}M parameters, {folder}")
    (loaded, tokenizer), load_s = timed(lambda: load_with_tokenizer(folder, config))
    engine, engine_s = timed(lambda: Engine(loaded, tokenizer, with_kv_budget(loaded, tokenizer, config)))
    say(f"{engine.setup.weights_line()}; with the tokenizer ({tokenizer.vocab_size:,} tokens) in {load_s:.2f} s")
    say(f"{engine.setup.memory_line()}, in {engine_s:.2f} s")
    say(engine.setup.computing_line())
    return engine


def _embedding_model(folder: Path, config: EngineConfig) -> EmbeddingModel:
    """Raises InvalidConfigError for an option that means something to an engine only."""
    for field in fields(config):
        if field.name not in _EMBEDDING_OPTIONS and getattr(config, field.name) != field.default:
            raise InvalidConfigError(f"{field.name} is for models that generate, and {str(folder)!r} embeds")
    model, took_s = timed(lambda: EmbeddingModel.of_engine(folder, config, config.max_model_len))
    about = f"{model.dimension:,} numbers for a text of at most {model.max_length:,} tokens"
    say(f"model: embeds, {about}, {folder}, in {took_s:.2f} s")
    say(
        f"computing on {config.device if config.device != 'auto' else 'cpu'}, {threads(torch.get_num_threads())}: torch"
    )
    return model


def _check_listens(listener: socket.socket) -> None:
    """Raises OSError. uvloop says nothing where the system refuses to listen; it closes the socket."""
    try:
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
    except OSError:
        listener.detach()  # closed already, and its number may be somebody else's by now
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _address_error(host: str, port: int, error: Exception) -> AddressError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return AddressError(f"cannot listen at {_place(host, port)}: {reason}")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
