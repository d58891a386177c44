"""Contexts of a model on real pods: what is kept by name is continued as if it stood in the messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve import _current_client
from deepserve.errors import ContextExpiredError, InvalidOption, PromptTooLongError, UnknownContextError
from tests.waiting import wait_for

START = [
    {"role": "system", "content": "You answer questions about this text: " + "The quick brown fox. " * 8},
    {"role": "user", "content": "What does the fox do?"},
    {"role": "assistant", "content": "It jumps."},
]
MORE = [{"role": "user", "content": "Over what?"}]


def pids_of(model: deepserve.Model) -> set[int]:
    pods = _current_client.current_client().query("status")["pods"]
    return {pod["pid"] for pod in pods if pod["label"] == model.spec.label and pod["pid"]}


def counts(result: deepserve.ChatResult[str]) -> tuple[int, int]:
    """What does not depend on what is cached."""
    return result.usage.prompt_tokens, result.usage.completion_tokens


@deepserve.tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


def test_a_context_is_continued(llm: deepserve.Model) -> None:
    context = llm.cache(START, ttl=60)
    assert isinstance(context, deepserve.ContextId) and context.num_tokens > 40
    whole = llm.chat([*START, *MORE], max_tokens=12, temperature=0)
    for _ in range(2):
        continued = llm.chat(MORE, context=context, max_tokens=12, temperature=0)
        assert continued.text == whole.text and counts(continued) == counts(whole)
        assert 0 < continued.usage.cached_tokens < continued.usage.prompt_tokens
    assert context.id == json.loads(json.dumps(context))
    stored = json.loads(json.dumps(context))
    assert "".join(llm.stream(MORE, context=stored, max_tokens=12, temperature=0)) == whole.text


def test_on_an_event_loop_and_with_tools(llm: deepserve.Model) -> None:
    async def main() -> None:
        context = await llm.cache.aio(START, ttl=60, tools=[look_up])
        whole = await llm.chat.aio([*START, *MORE], tools=[look_up], max_tokens=8, temperature=0)
        continued = await llm.chat.aio(MORE, context=context, max_tokens=8, temperature=0)
        assert counts(continued) == counts(whole)
        pieces = [piece async for piece in llm.stream.aio(MORE, context=context, max_tokens=8, temperature=0)]
        assert pieces

    asyncio.run(main())


def test_another_executor_serves_it_too(llm: deepserve.Model) -> None:
    """The one that computed it is killed: its successor computes it again."""
    context = llm.cache(START, ttl=60)
    before = llm.chat(MORE, context=context, max_tokens=12, temperature=0)
    killed = pids_of(llm)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert killed
    wait_for(lambda: not killed & pids_of(llm))
    after = llm.chat(MORE, context=context, max_tokens=12, temperature=0)
    assert after.text == before.text and counts(after) == counts(before)


def test_unknown_and_expired_contexts(llm: deepserve.Model, folder: Path) -> None:
    with pytest.raises(UnknownContextError, match="ctx-never"):
        llm.chat("hi", context="ctx-never")
    with pytest.raises(UnknownContextError):
        list(llm.stream("hi", context="ctx-never"))
    short = llm.cache(START, ttl=0.2)
    wait_for(lambda: short not in [info.id for info in llm.cache.list()])
    with pytest.raises(ContextExpiredError, match=r"0\.2 s"):
        llm.chat("hi", context=short)
    context = llm.cache("hi", ttl=60)
    with pytest.raises(UnknownContextError, match="models/tiny"):
        deepserve.Model("another", source=folder).chat("hi", context=context)
    assert llm.chat("hi", context=context, max_tokens=1).text is not None


def test_listed_extended_continued_and_forgotten(llm: deepserve.Model) -> None:
    with llm.cache(START, ttl=60) as context:
        [told] = [info for info in llm.cache.list() if info.id == context]
        assert told.num_tokens == context.num_tokens and told.ttl == 60 and 50 < told.expires_in <= 60
        assert context.extend(3000).expires_in > 2000 and llm.cache.extend(str(context), 500).ttl == 500
        longer = llm.cache(MORE, context=context)
        whole = llm.chat([*START, *MORE, *MORE], max_tokens=5, temperature=0)
        assert counts(llm.chat(MORE, context=longer, max_tokens=5, temperature=0)) == counts(whole)
    for forgotten in (context.delete, lambda: context.extend(5), lambda: llm.chat("hi", context=context)):
        with pytest.raises(UnknownContextError, match=context):
            forgotten()
    llm.cache.delete(str(longer))
    with pytest.raises(UnknownContextError, match="ctx-never"):
        llm.cache("hi", context="ctx-never")
    with pytest.raises(InvalidOption, match="ttl=0"):
        longer.extend(0)
    short = llm.cache(START, ttl=0.2)
    wait_for(lambda: short not in [info.id for info in llm.cache.list()])
    with pytest.raises(ContextExpiredError, match=short):
        short.extend(60)

    async def main() -> None:
        async with await llm.cache.aio("hi", ttl=60) as context:
            assert context in [info.id for info in await llm.cache.list.aio()]
            assert (await context.extend.aio(70)).ttl == 70
        with pytest.raises(UnknownContextError):
            await context.delete.aio()

    asyncio.run(main())


def pinned_blocks(model: deepserve.Model) -> int:
    pods = _current_client.current_client().query("status")["pods"]
    return sum(pod["pinned_blocks"] for pod in pods if pod["label"] == model.spec.label)


def test_what_is_over_is_not_pinned_any_more(llm: deepserve.Model) -> None:
    """Deleted, or its key revoked, while nothing else runs; or deleted while a chat continues it."""
    for context in llm.cache.list():  # of other tests
        llm.cache.delete(context.id)
    context = llm.cache(START, ttl=600)
    assert pinned_blocks(llm) > 0
    context.delete()
    wait_for(lambda: pinned_blocks(llm) == 0)

    context = llm.cache(START, ttl=600)
    pieces = llm.stream(MORE, context=context, max_tokens=100, temperature=0, ignore_eos=True)
    next(pieces)
    context.delete()
    assert list(pieces)
    wait_for(lambda: pinned_blocks(llm) == 0)

    pytest.importorskip("openai")
    client = _current_client.current_client()
    key = client.query("new_key", {"name": "a"})
    with llm.openai() as openai:
        asked = {"model": "tiny", "messages": START, "ttl": 600}
        made: Any = openai.with_options(api_key=key["key"]).post("/contexts", body=asked, cast_to=object)
    assert pinned_blocks(llm) > 0 and [each.id for each in llm.cache.list()] == [made["id"]]
    client.query("revoke_key", {"key_id": key["key_id"]})
    assert llm.cache.list() == []
    wait_for(lambda: pinned_blocks(llm) == 0)


SCRIPT = """
import sys
import deepserve

deepserve.init(state=sys.argv[1])
llm = deepserve.Model("tiny", source=sys.argv[2])
if len(sys.argv) == 3:
    print(llm.cache([{"role": "user", "content": "What does the fox do?"}], ttl=600))
else:
    [info] = llm.cache.list()
    print(info.id, info.ttl, llm.chat("Why?", context=sys.argv[3], max_tokens=2).usage.prompt_tokens > info.num_tokens)
"""


def test_a_later_run_continues_those_of_its_state_folder(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "state"), str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    context = run()
    assert run(context) == f"{context} 600.0 True"


def test_bad_contexts(llm: deepserve.Model) -> None:
    with pytest.raises(PromptTooLongError):
        llm.cache("word " * 2000)
    for ttl in (0, -1, float("inf"), float("nan"), True, "60"):
        with pytest.raises(InvalidOption, match="ttl"):
            llm.cache("hi", ttl=ttl)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="tools"):
        llm.chat("hi", context="ctx-1", tools=[look_up])
    with pytest.raises(InvalidOption, match="context=7"):
        llm.chat("hi", context=7)  # type: ignore[call-overload]
