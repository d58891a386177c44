"""What runs in the next step. Pure: lengths in, a batch out; shared by the engine, the simulator and tests."""

from .batch import Batch, ScheduledSequence, TokenResult
from .config import SchedulerConfig
from .policy import BoundedPriority, OrderPolicy
from .scheduler import Scheduler

__all__ = [
    "Batch",
    "BoundedPriority",
    "OrderPolicy",
    "ScheduledSequence",
    "Scheduler",
    "SchedulerConfig",
    "TokenResult",
]
