"""What `deepserve status` says of one thing."""

from __future__ import annotations

from deepserve.cli.status import cpu_line, start_row


def test_the_steps_of_a_start() -> None:
    ready = {"pod_id": "pod-1", "source": "fork", "steps_ms": {"Scaler-Pre": 9.6, "TE-Load": 0.0, "TE-Post-Load": 31.2}}
    assert start_row(ready) == ("pod-1", "fork", "10 ms", "", "0 ms", "31 ms", "")
    assert start_row({"pod_id": "pod-2", "source": "", "steps_ms": {}}) == ("pod-2", "-", "", "", "", "", "")


def test_shares_of_the_cpus() -> None:
    pods = [{"pod_id": f"pod-{number}", "cpu_share": share} for number, share in ((1, 0.5), (2, 1.5), (3, 0.0))]
    assert cpu_line({"cpus": 2, "pods": pods}) == "2 CPUs; when all pods are busy: pod-1 0.5, pod-2 1.5"
    assert cpu_line({"cpus": 2, "pods": pods[2:]}) == ""
