"""The same with a child that is a new interpreter."""

import socket
import subprocess
import sys

import cloudpickle
import msgspec
from wait import say_and_wait

CHILD = """
import socket, cloudpickle, msgspec
there = socket.socket(fileno=int({fd}))
function, argument = msgspec.msgpack.decode(there.recv(1 << 16))
there.sendall(msgspec.msgpack.encode(cloudpickle.loads(function)(argument)))
there.recv(1)
"""
here, there = socket.socketpair()
child = subprocess.Popen([sys.executable, "-c", CHILD.format(fd=there.fileno())], pass_fds=[there.fileno()])
there.close()
here.sendall(msgspec.msgpack.encode((cloudpickle.dumps(lambda x: x), 1)))
say_and_wait(msgspec.msgpack.decode(here.recv(64)))
here.close()
child.wait()
