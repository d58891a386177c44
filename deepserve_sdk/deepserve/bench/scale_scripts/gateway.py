"""What passing through DeepServe costs: clients stream from its HTTP port, and from the engine's own server.

Both serve one model with one executor; their turns alternate. Argument: the model's shape, and how many clients.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from meeting import tell

import deepserve
from deepserve._current_client import current_client
from deepserve.protocol.specs import function_id
from flowserve.bench.shapes import SHAPES, model_folder

TOKENS = 64
PROMPT = "a b c d e f g h i j k l m n o p"
ALONE = 15
"""Streams one after the other, for the time to the first token."""
TURNS = 5
WARM_UP = 3


@dataclass(frozen=True)
class Server:
    """Who answers at host:port. authorization: of the header."""

    who: str
    host: str
    port: int
    model: str
    authorization: str = ""

    def request(self, num_tokens: int, prompt: str, is_stream: bool = True) -> bytes:
        """A completion; the connection ends with it."""
        asked = {"model": self.model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        if is_stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        head = [
            "POST /v1/completions HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *([f"Authorization: Bearer {self.authorization}"] if self.authorization else []),
        ]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def main() -> None:
    shape, clients = SHAPES[sys.argv[1]], int(sys.argv[2])
    folder = model_folder(shape)
    llm = deepserve.Model(shape.name, source=folder, max_pods=1, scaledown_window=600)
    llm.generate("a", max_tokens=1)
    address = current_client().query("openai_address")
    at = urlsplit(address["base_url"])
    assert at.hostname and at.port
    with own_server(folder) as port:
        servers = [
            Server("FlowServe's own server", "127.0.0.1", port, shape.name),
            Server("DeepServe", at.hostname, at.port, shape.name, address["api_key"]),
        ]
        rates, firsts = asyncio.run(measured(servers, clients))
    assert len(current_client().query("function", {"function_id": function_id(llm.spec)})["pods"]) == 1
    rate = {"work": f"{clients} streams", "unit": "tokens/s"}
    first = {"work": "first token", "unit": "s"}
    tell(
        [rate | {"who": server.who, "value": median(rates[server.who])} for server in servers]
        + [first | {"who": server.who, "value": median(firsts[server.who])} for server in servers]
    )


async def measured(servers: list[Server], clients: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Tokens a second of so many clients at once, and seconds to the first token of one alone: by who answers."""
    rates: dict[str, list[float]] = {server.who: [] for server in servers}
    firsts: dict[str, list[float]] = {server.who: [] for server in servers}
    for server in servers:
        for _ in range(WARM_UP):
            await stream(server, TOKENS)
    for _ in range(ALONE):
        for server in servers:
            firsts[server.who].append((await stream(server, 2))[0])
    for number in range(TURNS):
        for server in servers if number % 2 == 0 else reversed(servers):
            start_s = time.perf_counter()
            found = await asyncio.gather(*(stream(server, TOKENS) for _ in range(clients)))
            rates[server.who].append(sum(tokens for _, tokens in found) / (time.perf_counter() - start_s))
    return rates, firsts


async def stream(server: Server, num_tokens: int, prompt_tokens: int = 0, start: str = "") -> tuple[float, int]:
    """Seconds until the first token, and tokens made. The prompt: PROMPT, or `start` and so many tokens in all."""
    prompt = prompt_of(start, prompt_tokens) if start else PROMPT
    start_s, first_s, tokens = time.perf_counter(), 0.0, 0
    reader, writer = await asyncio.open_connection(server.host, server.port)
    with closing(writer):
        writer.write(server.request(num_tokens, prompt))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head.decode() + (await reader.read()).decode()
        async for line in reader:  # chunks' sizes stand between
            if line.startswith(b"data: {"):
                first_s = first_s or time.perf_counter() - start_s
                if b'"completion_tokens"' in line:
                    tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    assert tokens == num_tokens, f"{server.who}: {tokens} tokens of {num_tokens}"
    return first_s, tokens


async def whole(server: Server, num_tokens: int, prompt: str) -> None:
    """An answer that is not streamed."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    with closing(writer):
        writer.write(server.request(num_tokens, prompt, is_stream=False))
        answer = await reader.read()
    assert b" 200 " in answer.partition(b"\r\n")[0], answer.decode()


def prompt_of(start: str, num_tokens: int) -> str:
    """Of about so many tokens."""
    return start + " a" * max(0, num_tokens - len(start))


@contextmanager
def own_server(folder: Path) -> Iterator[int]:
    """`flowserve serve`; its port."""
    command = [sys.executable, "-m", "flowserve", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            _, is_there, rest = line.partition("http://127.0.0.1:")
            if is_there:
                yield int("".join(letter for letter in rest.split("/")[0] if letter.isdigit()))
                return
        raise AssertionError("the engine's own server did not start")
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
