"""What is held of output."""

from __future__ import annotations

from deepserve_controller.service.logs import NUM_RINGS, LogLink, Logs


def test_only_the_functions_that_printed_last_are_held() -> None:
    logs = Logs(label_of=lambda pod_id: f"app/{pod_id}", readers_of=lambda pod_id: ())
    for number in range(NUM_RINGS + 10):
        logs.written(f"pod-{number}", "stdout", b"%d\n" % number)
        logs.written("pod-0", "stdout", b"again\n")
    assert len(logs.labels()) == NUM_RINGS
    assert logs.tail("app/pod-1", 0) == b"" and logs.tail("app/pod-0", 1) == b"again\n"


def test_the_latest_line_of_a_pod_is_known_until_it_is_gone() -> None:
    logs = Logs(label_of=lambda pod_id: "app/f", readers_of=lambda pod_id: ())
    assert logs.latest_line("pod-1") == ""
    link = LogLink("pod-1", "stderr", logs)
    link.bytes_received(memoryview(b"reading\ncompiling the kernels\n\n"))
    assert (logs.latest_line("pod-1"), logs.latest_line("pod-2")) == ("compiling the kernels", "")
    link.bytes_received(memoryview(b"\n"))
    assert logs.latest_line("pod-1") == "compiling the kernels", "an empty line says nothing"
    link.link_closed()
    assert logs.latest_line("pod-1") == ""
