from wait import say_and_wait

import deepserve


@deepserve.function
def same(x: int) -> int:
    return x


if __name__ == "__main__":
    say_and_wait(same.remote(1))
