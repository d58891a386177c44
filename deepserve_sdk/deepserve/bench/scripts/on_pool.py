"""The standard library's ProcessPoolExecutor: two processes, no controller."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from harness import Verbs, make_array, make_bytes, read_array, read_bytes, report, same

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        report(
            Verbs(
                "ProcessPoolExecutor",
                call=lambda i: pool.submit(same, i).result(),
                map=lambda inputs: list(pool.map(same, inputs)),
                take_array=lambda array: pool.submit(read_array, array).result(),
                give_array=lambda i: pool.submit(make_array, i).result(),
                take_bytes=lambda data: pool.submit(read_bytes, data).result(),
                give_bytes=lambda i: pool.submit(make_bytes, i).result(),
            ),
            Verbs("ProcessPoolExecutor, chunksize 64", map=lambda inputs: list(pool.map(same, inputs, chunksize=64))),
        )
