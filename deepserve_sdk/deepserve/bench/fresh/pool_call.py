from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from wait import say_and_wait


def same(x: int) -> int:
    return x


if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        say_and_wait(pool.submit(same, 1).result())
