"""`deepserve up`'s controller as a test starts it: it takes orders to kill itself, which others refuse."""

from __future__ import annotations

import sys

from deepserve_controller import __main__ as entry
from deepserve_controller.service import fault_queries

if __name__ == "__main__":
    fault_queries.MODES_WITH_FAULTS = ("embedded", "up")
    sys.exit(entry.main())
