"""`deepserve model info`: one entry a line, so that ids and steps stay whole on a narrow terminal and in a pipe."""

from __future__ import annotations

from typing import Any

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK
from deepserve.cli.functions import bounds, time_of
from deepserve.cli.output import print_entry, print_json


def show_model(name: str, *, as_json: bool) -> int:
    with connected() as client:
        found = query(client, "model", name=name)
    if as_json:
        print_json(found)
        return OK
    for entry, depth in entries_of(name, found):
        print_entry(entry, depth=depth)
    return OK


def entries_of(name: str, found: dict[str, Any]) -> list[tuple[str, int]]:
    """Each with how far in it stands."""
    engine = found["model"]
    memory = f", {found['memory_mib']} MiB of memory each" if found["memory_mib"] else ""
    about = {
        "source": engine["source"],
        "engine": f"{engine_in_words(engine)}, on {' or '.join(found['accelerators'])}",
        "bounds": f"{bounds(found['settings'])}{memory}",
        "memory": memory_in_words(found["memory"]),
        "demand": f"{found['queued']} requests wait, {found['running']} run",
        "because": f"{found['reason']} (decided {seconds_in_words(found['reason_age_s'])} ago)",
        "failed": found["broken_because"],
        "starts": startup_in_words(found["startup"]),
    }
    app = f"app {found['app']}" if found["app"] else "of a script, not deployed"
    entries = [(f"{name} ({app}, {found['function_id']})", 0)]
    entries += [(f"{title:<9} {text}", 1) for title, text in about.items() if text]
    entries += [(f"template  {template_in_words(each)}", 1) for each in found["templates"]]
    for title, kind in (("pods", "pods"), ("latest requests", "routes"), ("latest decisions", "decisions")):
        entries.append((title if found[kind] else f"no {title}", 0))
        for each in found[kind]:
            entries += [(text, depth + 1) for depth, text in enumerate(ENTRIES[kind](each))]
    return entries


def pod_entries(pod: dict[str, Any]) -> list[str]:
    process = f" (pid {pod['pid']})" if pod["pid"] else ""
    claim = f"{pod['memory_mib']:,} MiB claimed, {pod['kv_mib']:,} of it KV, {pod['pinned_blocks']} blocks pinned"
    about = f"{pod['pod_id']}{process}, {state_of(pod)}: {claim}"
    steps = f", ready in ms: {steps_in_words(pod['steps_ms'])}" if pod["steps_ms"] else ""
    return [about, f"weights from {weights_in_words(pod)}{steps}"]


def route_entries(route: dict[str, Any]) -> list[str]:
    return [f"{time_of(route['at'])} {route['request_id']} to {route['pod_id']}: {route['reason']}"]


def decision_entries(decision: dict[str, Any]) -> list[str]:
    states = ", ".join(f"{decision[state]} {state}" for state in ("ready", "starting", "draining", "queued", "running"))
    pods = f"{decision['from_pods']} -> {decision['to_pods']} pods"
    return [f"{time_of(decision['at'])} {pods} ({states}): {decision['reason']}"]


ENTRIES = {"pods": pod_entries, "routes": route_entries, "decisions": decision_entries}


def template_in_words(template: dict[str, Any]) -> str:
    """Of one that loads: for how long, and what it says of that (that kernels are compiled, or a model is fetched)."""
    process = f"pid {template['pid']}" if template["pid"] else "no process yet"
    about = f"{template['template_id']} ({process}), {template['state']}"
    if template["state"] not in ("starting", "loading"):
        return f"{about}: {weights_in_words(template)}"
    said = f": {template['latest_line']}" if template["latest_line"] else ""
    return f"{about} for {seconds_in_words(template['age_s'])}{said}"


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
    if not startup["is_observed"]:
        read_s = seconds_in_words(startup["seconds"])
        return f"in a time that its first start will show, {read_s} at least ({SOURCES[source]})"
    words = [f"in about {seconds_in_words(startup['seconds'])} ({SOURCES[source]})"]
    words += [f"{seconds_in_words(by_source_s[name])} {SOURCES[name]}" for name in by_source_s if name != source]
    return ", ".join(words)


SOURCES = {"fork": "as a fork of its template", "host memory": "from host memory", "file": "from its file"}


def seconds_in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.2g} s"


def state_of(pod: dict[str, Any]) -> str:
    return "asleep" if pod["is_asleep"] else "busy" if pod["is_busy"] else str(pod["state"])


def engine_in_words(engine: dict[str, Any]) -> str:
    parts = [f"dtype {engine.get('dtype', 'auto')}"]
    parts += [f"{key.replace('_', ' ')} {engine[key]}" for key in OPTIONS if engine.get(key) not in (None, 0, "auto")]
    return ", ".join(parts)


OPTIONS = ("quantization", "kv_cache_dtype", "speculative_tokens", "max_model_len")


def steps_in_words(steps_ms: dict[str, float]) -> str:
    return ", ".join(f"{step} {ms:.0f}" for step, ms in steps_ms.items())
