"""What is held of output."""

from __future__ import annotations

from deepserve_controller.service.logs import NUM_RINGS, Logs


def test_only_the_functions_that_printed_last_are_held() -> None:
    logs = Logs(label_of=lambda pod_id: f"app/{pod_id}", readers_of=lambda pod_id: ())
    for number in range(NUM_RINGS + 10):
        logs.written(f"pod-{number}", "stdout", b"%d\n" % number)
        logs.written("pod-0", "stdout", b"again\n")
    assert len(logs.labels()) == NUM_RINGS
    assert logs.tail("app/pod-1", 0) == b"" and logs.tail("app/pod-0", 1) == b"again\n"
