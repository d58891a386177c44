"""Ray core: tasks, and two actors."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # noqa: E402
from harness import Verbs, make_array, make_bytes, read_array, read_bytes, report, same  # noqa: E402


class Worker:
    def same(self, x: int) -> int:
        return x

    def read_array(self, array: object) -> int:
        return read_array(array)

    def make_array(self, i: int) -> object:
        return make_array(i)

    def read_bytes(self, data: bytes) -> int:
        return read_bytes(data)

    def make_bytes(self, i: int) -> bytes:
        return make_bytes(i)


if __name__ == "__main__":
    # An address of its own: Ray would join whatever cluster of this user it finds.
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    task, read_a, make_a, read_b, make_b = map(ray.remote, (same, read_array, make_array, read_bytes, make_bytes))
    one, two = (ray.remote(Worker).remote() for _ in range(2))
    report(
        Verbs(
            "Ray task",
            call=lambda i: ray.get(task.remote(i)),
            map=lambda inputs: ray.get([task.remote(i) for i in inputs]),
            take_array=lambda array: ray.get(read_a.remote(array)),
            give_array=lambda i: ray.get(make_a.remote(i)),
            take_bytes=lambda data: ray.get(read_b.remote(data)),
            give_bytes=lambda i: ray.get(make_b.remote(i)),
        ),
        Verbs(
            "Ray actor",
            call=lambda i: ray.get(one.same.remote(i)),
            map=lambda inputs: ray.get([(one, two)[i % 2].same.remote(i) for i in inputs]),
            take_array=lambda array: ray.get(one.read_array.remote(array)),
            give_array=lambda i: ray.get(one.make_array.remote(i)),
            take_bytes=lambda data: ray.get(one.read_bytes.remote(data)),
            give_bytes=lambda i: ray.get(one.make_bytes.remote(i)),
        ),
    )
    ray.shutdown()
