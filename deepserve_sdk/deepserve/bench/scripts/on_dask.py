"""Dask distributed: a local cluster of two processes."""

import logging
import warnings

from dask.distributed import Client, LocalCluster
from harness import Verbs, make_array, make_bytes, read_array, read_bytes, report, same

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # it warns of large arguments, which are what is measured
    options = {"processes": True, "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster, Client(cluster) as client:
        report(
            Verbs(
                "Dask",
                call=lambda i: client.submit(same, i, pure=False).result(),
                map=lambda inputs: client.gather(client.map(same, inputs, pure=False)),
                take_array=lambda array: client.submit(read_array, array, pure=False).result(),
                give_array=lambda i: client.submit(make_array, i, pure=False).result(),
                take_bytes=lambda data: client.submit(read_bytes, data, pure=False).result(),
                give_bytes=lambda i: client.submit(make_bytes, i, pure=False).result(),
            )
        )
