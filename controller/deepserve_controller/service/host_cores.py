"""The cores, built for the host that they run on: its processors, memory and devices."""

from __future__ import annotations

import os
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core.cores import Cores
from deepserve_controller.model_policies import ModelPolicy
from deepserve_controller.service.devices import host_devices
from deepserve_controller.service.host_memory import usable_memory_mib
from deepserve_controller.service.tokens import new_name
from deepserve_controller.settings import max_depth


def cores_of_host(mode: str, policy: ModelPolicy) -> Cores:
    """mode: of an `up` controller ids are kept, so those of a later one must differ. Raises ControllerError."""
    ids = IdAllocator(suffix=f"{new_name(2)}-" if mode == "up" else "")
    return Cores(
        build_job_executor(ids, Random(), max_depth=max_depth(), model_routing=policy.routing()),
        build_cluster_manager(
            ids,
            default_max_pods(),
            usable_mib=usable_memory_mib(),
            choose_source=policy.choose_source,
            devices=host_devices(),
            model_autoscaler=policy.autoscaler(),
            preload=policy.preload,
        ),
    )


def default_max_pods() -> int:
    """A host's bound for functions that name none."""
    return max(4, 4 * len(os.sched_getaffinity(0)))
