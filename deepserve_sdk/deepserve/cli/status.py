"""`deepserve status`."""

from __future__ import annotations

from typing import Any

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK
from deepserve.cli.output import print_json, print_table
from deepserve.protocol.scaling_steps import SCALING_STEPS

LATEST_REQUESTS = 10


def show_status(*, as_json: bool) -> int:
    with connected() as client:
        status = query(client, "status")
    if as_json:
        print_json(status)
        return OK
    print(f"Controller {status['version']} (pid {status['pid']}), up for {span(status['uptime_s'])}")
    if status.get("url"):
        print(f"HTTP at {status['url']}")
    apps = [(app["app"], ", ".join(app["functions"])) for app in status["apps"]]
    print_table(("app", "functions"), apps, empty="no apps")
    print_table(("pod", "pid", "state", "function"), [pod_row(pod) for pod in status["pods"]], empty="no pods")
    if shares := cpu_line(status):
        print(shares)
    if claims := memory_line(status):
        print(claims)
    if status["devices"]:
        print_table(("device", "model", "pod"), [device_row(device) for device in status["devices"]], empty="")
    if status["templates"]:
        print_table(
            ("template", "pid", "state", "function"), [template_row(item) for item in status["templates"]], empty=""
        )
    starts = [start_row(pod) for pod in [*status["templates"], *status["pods"]] if pod["environment"] == "flowserve"]
    if starts:
        print_table(("start of", "weights from", *SCALING_STEPS), starts, empty="")
    sources = [(view["label"], view["pods"], view["pod_source"]) for view in status["functions"] if view["pod_source"]]
    if sources:
        print_table(("function", "pods", "where they come from"), sources, empty="")
    latest = status["requests"][-LATEST_REQUESTS:]
    columns = ("request", "job", "task", "pod", "function", "state", "ms")
    print_table(columns, [request_row(record) for record in latest], empty="no requests yet")
    return OK


def pod_row(pod: dict[str, Any]) -> tuple[object, ...]:
    return pod["pod_id"], pod.get("pid", ""), pod["state"], pod.get("label") or "-"


def cpu_line(status: dict[str, Any]) -> str:
    """Empty where no pod serves a function."""
    shares = [f"{pod['pod_id']} {pod['cpu_share']:.3g}" for pod in status["pods"] if pod["cpu_share"]]
    return f"{status['cpus']} CPUs; when all pods are busy: {', '.join(shares)}" if shares else ""


def memory_line(status: dict[str, Any]) -> str:
    """Empty where there is no bound."""
    memory = status["memory"]
    if not memory["usable_mib"]:
        return ""
    claims = [
        f"{pod['pod_id']} {pod['memory_mib']:,}" + (f" ({pod['kv_mib']:,} of it KV)" if pod["kv_mib"] else "")
        for pod in status["pods"]
        if pod["memory_mib"]
    ]
    total = f"{memory['claimed_mib']:,} of {memory['usable_mib']:,} MiB of memory are claimed"
    return f"{total}: {', '.join(claims)}" if claims else total


def device_row(device: dict[str, Any]) -> tuple[object, ...]:
    return f"{device['kind']} {device['id']}", device["model"] or "-", device["pod_id"] or "free"


def start_row(pod: dict[str, Any]) -> tuple[object, ...]:
    """Milliseconds of each step of scaling; empty where it has not come to that."""
    steps_ms = pod["steps_ms"]
    return (
        pod["pod_id"],
        pod["source"] or "-",
        *(f"{steps_ms[step]:.0f} ms" if step in steps_ms else "" for step in SCALING_STEPS),
    )


def template_row(template: dict[str, Any]) -> tuple[object, ...]:
    return template["template_id"], template["pid"], template["state"], template["label"]


def request_row(record: dict[str, Any]) -> tuple[object, ...]:
    return (
        record["request_id"],
        record["job_id"],
        record["task_id"],
        record["pod_id"],
        record["label"],
        record["state"],
        f"{record['total_ms']:.1f}",
    )


def span(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"
