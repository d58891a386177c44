import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # noqa: E402
from wait import say_and_wait  # noqa: E402


def same(x: int) -> int:
    return x


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    say_and_wait(ray.get(ray.remote(same).remote(1)))
    ray.shutdown()
