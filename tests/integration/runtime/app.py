"""What the tests' pods run; travels as the bundle's app.py."""

import asyncio
import os
import signal
import sys
import threading
import time

import deepserve.errors

imported_main_name = sys.modules["__main__"].__name__


def square(x):
    return x * x


class Boom(Exception):
    pass


def fail(text):
    raise Boom(text)


def raise_named(name):
    raise {"SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt(), "StopIteration": StopIteration(1)}[
        name
    ]


def give_lock(_):
    return {"inner": threading.Lock()}


def thread_name(_=None):
    return threading.current_thread().name


def count_to(n):
    try:
        for i in range(n):
            print(f"made {i}", flush=True)
            yield i
    finally:
        print("closed", flush=True)


async def count_async(n):
    try:
        for i in range(n):
            yield i
    finally:
        print("closed", flush=True)


async def add_async(a, b):
    await asyncio.sleep(0)
    return a + b


barrier = None


async def meet(parties):
    """Returns only when `parties` calls are running at the same time."""
    global barrier
    barrier = barrier or asyncio.Barrier(parties)
    await barrier.wait()
    return threading.current_thread().name


def sleep_long(started="sleeping"):
    try:
        print(started, flush=True)
        time.sleep(60)
    except deepserve.errors.InputCancelled:
        print("cleaned up", flush=True)
        raise


def spin(_=None):
    os.write(1, b"spinning\n")  # in one piece: two of these may run at once
    while True:
        pass


async def sleep_async(_=None):
    try:
        print("sleeping", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)


def leave(code):
    os._exit(code)


def kill_me(_):
    os.kill(os.getpid(), signal.SIGKILL)


def print_much(num_bytes):
    line = "x" * 99 + "\n"
    for _ in range(num_bytes // 100):
        sys.stdout.write(line)
    return "done"


def fork_and_return(_):
    """Both copies return; only one of them is the pod."""
    child = os.fork()
    if child == 0:
        return "from the child"
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


async def fork_and_return_async(_):
    return fork_and_return(_)


def fork_and_raise(_):
    child = os.fork()
    if child == 0:
        raise ValueError("only in the child")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def fork_forever(_):
    child = os.fork()
    if child == 0:
        while True:
            time.sleep(60)
    return child


def grow(mib):
    print("growing", flush=True)
    held = []
    while True:
        held.append(bytearray(os.urandom(1) * (mib << 20)))
        time.sleep(0.01)


def random_bits(_=None):
    import random

    return random.getrandbits(64)


def environment(_=None):
    return {
        "pod_id": os.environ["DEEPSERVE_POD_ID"],
        "group": os.getpgrp() == os.getpid(),
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "stdin": os.readlink("/proc/self/fd/0"),
        "main": (imported_main_name, sys.modules["__main__"].__name__, sys.modules["__mp_main__"].__name__),
    }


class Counter:
    def __init__(self, start=0):
        self.count = start
        self.events = ["init"]

    def begin(self):
        self.events.append("enter")

    async def begin_async(self):
        self.events.append("enter async")

    def add(self, n):
        self.count += n
        return self.count

    async def add_async(self, n):
        return self.add(n)

    def seen(self):
        return self.events

    def hidden(self):
        return "not a method"

    def end(self):
        print(f"exit at {self.count}", flush=True)


for hook, names in {"enter": ["begin", "begin_async"], "method": ["add", "add_async", "seen"], "exit": ["end"]}.items():
    for name in names:
        getattr(Counter, name).__deepserve_hook__ = hook
