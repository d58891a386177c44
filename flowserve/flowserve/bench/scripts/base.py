"""A process that imports a library and does nothing else: LIBRARY. With its memory all begin that use it."""

import importlib
import sys

from measuring import memory_mb, quiet_stdout, say

quiet_stdout()
importlib.import_module(sys.argv[1])
say(work="base", unit="MB", value=memory_mb("VmHWM"), foreign=0.0)
