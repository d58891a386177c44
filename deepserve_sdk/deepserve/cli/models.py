"""`deepserve model list|info|deploy|stop|pull`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deepserve._app import App
from deepserve._model import Model
from deepserve.cli.connection import connected, query
from deepserve.cli.deploy import check_before_deploy, deploy_app, start_if_none_runs
from deepserve.cli.exit_codes import INTERRUPTED, OK, UsageError
from deepserve.cli.functions import bounds, decision_row, time_of
from deepserve.cli.output import print_json, print_table
from deepserve.errors import InvalidOption, ModelLoadError, NotFound

APP_PREFIX = "model-"
"""Of the app that a model is deployed as by itself."""


def list_models(*, as_json: bool) -> int:
    with connected() as client:
        models = query(client, "models")["models"]
    if as_json:
        print_json(models)
        return OK
    rows = [
        (each["name"], each["app"], each["model"]["source"], pods_in_words(each), bounds(each["settings"]))
        for each in models
    ]
    empty = "No model is deployed. Deploy one: deepserve model deploy NAME SOURCE"
    print_table(("model", "app", "source", "pods", "bounds"), rows, empty=empty)
    return OK


def show_model(name: str, *, as_json: bool) -> int:
    with connected() as client:
        found = query(client, "model", name=name)
    if as_json:
        print_json(found)
        return OK
    engine = found["model"]
    print(f"{name} (app {found['app']}, {found['function_id']})")
    print(f"  source    {engine['source']}")
    print(f"  engine    {engine_in_words(engine)}, on {' or '.join(found['accelerators'])}")
    memory = f", {found['memory_mib']} MiB of memory each" if found["memory_mib"] else ""
    print(f"  bounds    {bounds(found['settings'])}{memory}")
    print(f"  memory    {memory_in_words(found['memory'])}")
    print(f"  demand    {found['queued']} requests wait, {found['running']} run")
    print(f"  because   {found['reason']}")
    if found["broken_because"]:
        print(f"  failed    {found['broken_because']}")
    print(f"  starts    {startup_in_words(found['startup'])}")
    for each in found["templates"]:
        process = f"pid {each['pid']}" if each["pid"] else "no process yet"
        print(f"  template  {each['template_id']} ({process}), {each['state']}: {weights_in_words(each)}")
    rows = [
        (
            *(pod["pod_id"], pod["pid"] or "", state_of(pod), pod["memory_mib"], pod["kv_mib"], pod["pinned_blocks"]),
            *(weights_in_words(pod), steps_in_words(pod["steps_ms"])),
        )
        for pod in found["pods"]
    ]
    claim = ("MiB claimed", "of it KV", "pinned blocks")
    titles = ("pod", "pid", "state", *claim, "weights from", "how it became ready, in ms")
    print_table(titles, rows, empty="no pods")
    routes = [(time_of(each["at"]), each["request_id"], each["pod_id"], each["reason"]) for each in found["routes"]]
    print_table(("time", "request", "pod", "because"), routes, empty="no requests yet")
    columns = ("time", "pods", "reason", "ready/starting/draining", "queued", "running")
    print_table(columns, [decision_row(each) for each in found["decisions"]], empty="no decisions yet")
    return OK


def memory_in_words(memory: dict[str, int]) -> str:
    """What a pod takes, and what all of them share."""
    pod = f"{memory['pod_mib']:,} MiB"
    if memory["kv_mib"]:
        kv = {f"{memory['least_kv_mib']:,}": 0, f"{memory['kv_mib']:,}": 0}
        pod += f" and {' to '.join(kv)} MiB of KV"
    shared = f", {memory['weights_mib']:,} MiB of weights that they share" if memory["weights_mib"] else ""
    return f"a pod takes {pod}{shared}"


def weights_in_words(executor: dict[str, Any]) -> str:
    """Where its weights came from, and why from there."""
    source, reason = executor["source"] or "-", executor["source_reason"]
    return f"{source} ({reason})" if reason else str(source)


def startup_in_words(startup: dict[str, Any] | None) -> str:
    """What another executor would take, from where its weights are believed to be, and from elsewhere."""
    if startup is None:
        return "in a time that its first start will show"
    source, by_source_s = startup["source"], startup["by_source_s"]
    words = [f"in about {seconds_in_words(startup['seconds'])} ({SOURCES[source]})"]
    words += [f"{seconds_in_words(by_source_s[name])} {SOURCES[name]}" for name in by_source_s if name != source]
    return ", ".join(words)


SOURCES = {"fork": "as a fork of its template", "host memory": "from host memory", "file": "from its file"}


def seconds_in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.2g} s"


def deploy_model(name: str, source: str, options: dict[str, Any], *, as_json: bool) -> int:
    """A model by itself: an app of its own. A folder is meant from the current one."""
    try:
        model = Model(name, source, **{key: value for key, value in options.items() if value is not None})
        model._source = model._source._replace(file="")  # it would be this one
        model.definitions()
    except InvalidOption as error:
        raise UsageError(str(error)) from None
    except ModelLoadError as error:
        raise NotFound(str(error)) from None
    start_if_none_runs()
    with connected() as client:
        check_before_deploy([model])
        answer = deploy_app(client, App(f"{APP_PREFIX}{name}"), f"{APP_PREFIX}{name}", [model])
    if as_json:
        print_json({"name": name, **answer})
    else:
        print(f"Deployed {name}. Ask it: deepserve model chat {name} Hello")
    return OK


def stop_model(name: str, *, as_json: bool) -> int:
    with connected() as client:
        found = query(client, "find_model", name=name)
        if found["app"] != f"{APP_PREFIX}{name}":
            raise UsageError(f"{name} is part of app {found['app']}: deepserve app stop {found['app']} stops all of it")
        answer = query(client, "stop_app", app=found["app"])
    if as_json:
        print_json(answer)
    else:
        print(f"Stopped {name}.")
    return OK


def pull_model(source: str, *, as_json: bool) -> int:
    """By the engine, which fetches models itself when they are first used; it shows its progress on stderr."""
    command = [sys.executable, "-P", "-m", "flowserve", "pull", source, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if sys.stderr.isatty() else subprocess.PIPE)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        said = (done.stderr or b"").decode(errors="replace").strip().splitlines()
        raise NotFound(said[-1].removeprefix("flowserve: ") if said else f"{source!r} could not be fetched")
    about = json.loads(done.stdout)
    if as_json:
        print_json({"source": source, **about})
    else:
        print(f"{source}: {about['size_bytes'] / 2**20:,.0f} MiB in {Path(about['folder'])}")
    return OK


def state_of(pod: dict[str, Any]) -> str:
    return "asleep" if pod["is_asleep"] else "busy" if pod["is_busy"] else str(pod["state"])


def pods_in_words(found: dict[str, Any]) -> str:
    return f"{found['ready']} ready" + (f", {found['starting']} starting" if found["starting"] else "")


def engine_in_words(engine: dict[str, Any]) -> str:
    parts = [f"dtype {engine.get('dtype', 'auto')}"]
    parts += [f"{key.replace('_', ' ')} {engine[key]}" for key in OPTIONS if engine.get(key) not in (None, 0, "auto")]
    return ", ".join(parts)


OPTIONS = ("quantization", "kv_cache_dtype", "speculative_tokens", "max_model_len")


def steps_in_words(steps_ms: dict[str, float]) -> str:
    return ", ".join(f"{step} {ms:.0f}" for step, ms in steps_ms.items())
