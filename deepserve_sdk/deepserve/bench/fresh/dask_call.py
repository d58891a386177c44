import logging

from dask.distributed import Client, LocalCluster
from wait import say_and_wait


def same(x: int) -> int:
    return x


if __name__ == "__main__":
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        say_and_wait(client.submit(same, 1).result())
