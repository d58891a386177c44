"""The least that a system of two processes does: pickle a function to a forked child, which calls it."""

import os
import socket

import cloudpickle
import msgspec
from wait import say_and_wait

here, there = socket.socketpair()
if os.fork() == 0:
    here.close()
    function, argument = msgspec.msgpack.decode(there.recv(1 << 16))
    there.sendall(msgspec.msgpack.encode(cloudpickle.loads(function)(argument)))
    there.recv(1)
    os._exit(0)
there.close()
here.sendall(msgspec.msgpack.encode((cloudpickle.dumps(lambda x: x), 1)))
say_and_wait(msgspec.msgpack.decode(here.recv(64)))
