"""loky: two processes, cloudpickle."""

from harness import Verbs, make_array, make_bytes, read_array, read_bytes, report, same
from loky import get_reusable_executor

if __name__ == "__main__":
    pool = get_reusable_executor(max_workers=2, timeout=None)
    report(
        Verbs(
            "loky",
            call=lambda i: pool.submit(same, i).result(),
            map=lambda inputs: list(pool.map(same, inputs)),
            take_array=lambda array: pool.submit(read_array, array).result(),
            give_array=lambda i: pool.submit(make_array, i).result(),
            take_bytes=lambda data: pool.submit(read_bytes, data).result(),
            give_bytes=lambda i: pool.submit(make_bytes, i).result(),
        ),
        Verbs("loky, chunksize 64", map=lambda inputs: list(pool.map(same, inputs, chunksize=64))),
    )
    pool.shutdown()
