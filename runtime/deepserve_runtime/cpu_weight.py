"""A pod's share of this machine's processors: `cpu=` as a weight."""

from __future__ import annotations

import math
import os
from contextlib import suppress

from deepserve.protocol.specs import Resources

DEFAULT_CPU = Resources().cpu
WEIGHT_OF_A_NICE_STEP = 1.25
"""What the kernel's fair scheduler makes of one step (sched(7))."""
MOST_NICE, LEAST_NICE = 19, -20


def nice_value(cpu: float) -> int:
    """The nice value whose weight is to the usual one as `cpu` is to the default."""
    return max(LEAST_NICE, min(MOST_NICE, round(math.log(DEFAULT_CPU / cpu, WEIGHT_OF_A_NICE_STEP))))


def weigh(cpu: float) -> None:
    """Give this pod, with all its threads and children, the weight that `cpu` asks for, beside what it inherited.

    A higher weight than the default's needs a privilege (CAP_SYS_NICE); without it the pod keeps the default's.
    """
    if step := nice_value(cpu):
        inherited = os.getpriority(os.PRIO_PROCESS, 0)
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PGRP, os.getpgrp(), max(LEAST_NICE, min(MOST_NICE, inherited + step)))
