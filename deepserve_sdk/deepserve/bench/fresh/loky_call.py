from loky import get_reusable_executor
from wait import say_and_wait


def same(x: int) -> int:
    return x


if __name__ == "__main__":
    say_and_wait(get_reusable_executor(max_workers=1).submit(same, 1).result())
