"""A real server process: signals, sockets, clients that vanish."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flowserve.step_log import read_step_log

WAIT_S = 300.0
LONG = {"prompt": "Hello", "max_tokens": 4000, "ignore_eos": True}


def numbers(url: str) -> dict[str, float]:
    """The metrics without labels of their own."""
    lines = [line for line in httpx2.get(f"{url}/metrics").text.splitlines() if not line.startswith("#")]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


def wait_for(condition: Any) -> None:
    gives_up_at_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < gives_up_at_s, "it did not happen"
        time.sleep(0.01)


def is_idle(url: str) -> bool:
    now = numbers(url)
    return now["vllm:num_requests_running"] == now["vllm:num_requests_waiting"] == 0


def raw_request(port: int, asked: dict[str, Any]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_ends_its_sequence(server: Any, stream: bool) -> None:
    # Several, so that they are not over before a busy machine has asked for the metrics.
    connection = raw_request(server.port, {**LONG, "n": 16, "stream": stream})
    if stream:
        assert connection.recv(100)
    wait_for(lambda: numbers(server.url)["vllm:num_requests_running"] == 16)
    generated = numbers(server.url)["vllm:generation_tokens_total"]
    connection.close()
    wait_for(lambda: is_idle(server.url))
    assert numbers(server.url)["vllm:generation_tokens_total"] < generated + 16 * 4000
    assert httpx2.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_body_without_an_end_is_refused_while_it_comes(serve: Any) -> None:
    small = serve("--max-body-bytes", "100000")
    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT_S) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
        try:
            for _ in range(1000):
                connection.sendall(chunk)
        except OSError:
            pass  # it closed
        assert connection.recv(12) in (b"HTTP/1.1 413", b"")


def test_requests_without_an_end_do_not_hold_up_the_end(serve: Any) -> None:
    """Neither one whose body is read nor one that is answered without it."""
    running = serve("--grace-s", "0")
    connections = []
    for path in ("POST /v1/completions", "GET /health"):
        connections.append(socket.create_connection(("127.0.0.1", running.port), timeout=WAIT_S))
        connections[-1].sendall(f"{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    assert connections[1].recv(12) == b"HTTP/1.1 200"
    assert running.end() == (0, "")
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_within_the_grace(serve: Any, number: int) -> None:
    running = serve("--grace-s", "250")
    asked = {"prompt": "Hello", "max_tokens": 400, "ignore_eos": True}
    connection = raw_request(running.port, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    answer = b""
    while b"data: {" not in answer:
        answer += connection.recv(1 << 16)
    running.process.send_signal(number)
    while part := connection.recv(1 << 16):
        answer += part
    connection.close()
    assert b'"completion_tokens":400' in answer
    assert running.process.communicate(timeout=WAIT_S)[1] == "" and running.process.returncode == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", running.port), timeout=1)


def test_after_the_grace_answers_end_with_an_error(serve: Any) -> None:
    running = serve("--grace-s", "0")
    with httpx2.stream(
        "POST", f"{running.url}/v1/completions", json={**LONG, "stream": True}, timeout=WAIT_S
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGTERM)
        rest = "".join(lines)
    assert "the server is shutting down" in rest and rest.endswith("data: [DONE]")
    assert running.process.wait(WAIT_S) == 0


def test_a_reader_that_stops_does_not_hold_up_the_end(serve: Any) -> None:
    running = serve("--grace-s", "0")
    connection = raw_request(running.port, {**LONG, "logprobs": 50, "stream": True})
    connection.recv(100)  # and nothing more: the socket's buffers fill
    wait_for(lambda: numbers(running.url)["vllm:generation_tokens_total"] > 500)
    assert running.end() == (0, "")
    connection.close()


def test_the_port_can_be_taken_again_at_once(serve: Any) -> None:
    first = serve()
    assert first.end()[0] == 0
    again = serve("--port", str(first.port))
    assert again.port == first.port


def refused(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flowserve", "serve", *arguments], capture_output=True, text=True, timeout=WAIT_S
    )
    return done.returncode, done.stderr


def test_what_cannot_be_served_is_said_in_a_line(server: Any, folder: Path, tmp_path: Path) -> None:
    code, said = refused(str(folder), "--port", str(server.port))
    assert code == 1 and said == f"flowserve: cannot listen at 127.0.0.1:{server.port}: Address already in use\n"
    for arguments, word in (
        ([str(tmp_path)], "config.json"),
        ([str(tmp_path / "nothing")], "nothing"),
        ([str(folder), "--port", "0", "--max-model-len", "100000"], "max_model_len"),
        ([str(folder), "--port", "0", "--dtype", "float64"], "float64"),
    ):
        code, said = refused(*arguments)
        assert code == 1 and word in said and "Traceback" not in said
    assert refused(str(folder), "--port", "many")[0] == 2


def test_the_engine_s_log_is_shown(folder: Path, tmp_path: Path) -> None:
    """Where nothing was compiled yet and no compiler is, its warning comes before the error of the folder."""
    environment = {**os.environ, "FLOWSERVE_CACHE": str(tmp_path), "PATH": str(tmp_path), "CXX": ""}
    command = [sys.executable, "-m", "flowserve", "serve", str(folder), "--port", "0", "--kv-cache-memory-bytes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment)
    assert done.returncode == 1
    *_, warning, last = done.stderr.splitlines()
    assert warning.startswith("flowserve: computing in torch, several times slower: ") and "hold no sequence" in last


def test_a_server_says_what_it_starts_with(server: Any, folder: Path) -> None:
    told = [line for line in server.startup if "once on this machine" not in line]
    patterns = [
        r"FlowServe \S+ and torch \S+, imported [\d.]+ s after the process began",
        rf"model: Qwen3ForCausalLM, [\d.]+M parameters, {re.escape(str(folder))}",
        r"weights: float32, [\d.]+ MiB, from (conversion|file|host memory) \(.+\);"
        r" with the tokenizer \([\d,]+ tokens\) in [\d.]+ s",
        r"KV cache: float32, [\d.]+ MiB for [\d,]+ tokens; a request has 4,096 at most, in [\d.]+ s",
        r"computing on cpu, 1 thread: own kernels, \S+",
        rf"ready [\d.]+ s after the process began, at {re.escape(server.url)}",
    ]
    assert len(told) == len(patterns)
    for line, pattern in zip(told, patterns, strict=True):
        assert re.fullmatch(f"flowserve: {pattern}\n", line), line


def test_sleep_and_a_step_log_by_option(serve: Any, tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    running = serve("--allow-sleep", "--step-log", str(log))
    asked = {"prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
    assert httpx2.post(f"{running.url}/v1/completions", json=asked).status_code == 200
    assert httpx2.post(f"{running.url}/sleep").status_code == 200
    assert httpx2.get(f"{running.url}/health").status_code == 503
    assert running.end() == (0, "")
    setting, records = read_step_log(log)
    assert setting.model == "tiny" and sum(record.prefill_tokens for record in records) > 0
    assert sum(record.decode_sequences for record in records) == 4


def test_the_access_log_is_on_stderr(serve: Any) -> None:
    running = serve("--access-log")
    assert httpx2.post(f"{running.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
    running.process.send_signal(signal.SIGTERM)
    told, errors = running.process.communicate(timeout=WAIT_S)
    assert told == "" and '"POST /v1/completions HTTP/1.1" 200' in errors
