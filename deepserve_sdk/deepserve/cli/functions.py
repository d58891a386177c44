"""`deepserve function list|info|scale|schema`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import print_json, print_table


def list_functions(app: str | None, *, as_json: bool) -> int:
    with connected() as client:
        functions = query(client, "functions", **({"app": app} if app else {}))["functions"]
    if as_json:
        print_json(functions)
        return OK
    rows = [
        (
            f"{each['app']}/{each['name']}",
            each["kind"],
            each["num_pods"],
            bounds(each),
            each["num_queued"],
            each["num_running"],
        )
        for each in functions
    ]
    columns = ("function", "kind", "pods", "bounds", "waiting", "running")
    print_table(columns, rows, empty="No function is deployed. Deploy some: deepserve deploy app.py")
    return OK


def show_function(target: str, *, as_json: bool) -> int:
    with connected() as client:
        found = query(client, "function", **meant(target))
    if as_json:
        print_json(found)
        return OK
    print(f"{target} ({found['kind']}, {found['function_id']})")
    print(f"  options   {options(found)}")
    print(f"  bounds    {bounds(found['settings'])}")
    print(f"  demand    {found['queued']} inputs wait, {found['running']} run")
    print(f"  pods      {found['ready']} ready, {found['starting']} starting, {found['draining']} draining")
    print(f"  because   {found['reason']}")
    if found["broken_because"]:
        print(f"  failed    {found['broken_because']}")
    if found["pod_source"]:
        print(f"  loaded    {found['pod_source']}")
    pods = [(pod["pod_id"], pod["pid"] or "", pod["state"], "busy" if pod["is_busy"] else "") for pod in found["pods"]]
    print_table(("pod", "pid", "state", ""), pods, empty="no pods")
    columns = ("time", "pods", "reason", "ready/starting/draining", "queued", "running")
    print_table(columns, [decision_row(each) for each in found["decisions"]], empty="no decisions yet")
    return OK


def scale_function(target: str, asked: dict[str, int | float | None], *, as_json: bool) -> int:
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        raise UsageError("name a bound: --min, --max, --buffer or --window")
    with connected() as client:
        settings = query(client, "scale", **meant(target), **given)
    if as_json:
        print_json(settings)
    else:
        print(f"{target}: {bounds(settings)}")
    return OK


def show_schema(target: str, *, as_json: bool) -> int:
    with connected() as client:
        schema = query(client, "schema", **meant(target))["schema"]
    print_json(schema) if as_json else print(json.dumps(schema, indent=2, ensure_ascii=False))
    return OK


def meant(target: str) -> dict[str, str]:
    """Raises UsageError."""
    app, slash, name = target.partition("/")
    if not (app and slash and name):
        raise UsageError(f"{target!r} is no APP/FUNCTION")
    return {"app": app, "name": name}


def bounds(settings: dict[str, Any]) -> str:
    text = f"{settings['min_pods']} to {settings['max_pods']} pods, idle for {settings['scaledown_window_s']:g} s"
    return f"{text}, {settings['buffer_pods']} in reserve" if settings["buffer_pods"] else text


def options(found: dict[str, Any]) -> str:
    memory = f"memory {found['memory_mib']} MiB" if found["memory_mib"] else "no memory limit"
    inputs = f"{found['max_inputs']} inputs a pod"
    if found["target_inputs"] != found["max_inputs"]:
        inputs += f" (aims at {found['target_inputs']})"
    return f"cpu {found['cpu']:g}, {memory}, timeout {found['timeout_s']:g} s, {inputs}"


def time_of(at: float) -> str:
    """Of day; at: Unix time."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")


def decision_row(decision: dict[str, Any]) -> tuple[object, ...]:
    at = time_of(decision["at"])
    pods = f"{decision['from_pods']} -> {decision['to_pods']}"
    states = f"{decision['ready']}/{decision['starting']}/{decision['draining']}"
    return at, pods, decision["reason"], states, decision["queued"], decision["running"]
