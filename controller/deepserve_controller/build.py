"""Assembles both cores: the one place where policies are chosen, for the service, the simulator and the tests alike."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from deepserve.protocol.ids import IdAllocator
from deepserve_controller.core.chunk_views import Chunking
from deepserve_controller.core.cluster_manager import ClusterManager
from deepserve_controller.core.device import Device
from deepserve_controller.core.job_executor import JobExecutor
from deepserve_controller.core.placement_views import PlaceEngine
from deepserve_controller.core.preload_views import Preload
from deepserve_controller.core.routing_views import ModelRouting
from deepserve_controller.core.scaling_views import Autoscaler
from deepserve_controller.core.template_views import ChooseSource
from deepserve_controller.model_policies import MODEL_AUTOSCALER, MODEL_ROUTING, PRELOAD
from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.policies.chunking import by_run_time
from deepserve_controller.policies.host_cache import saved_per_memory
from deepserve_controller.policies.migration import until_the_gap_is_small
from deepserve_controller.policies.model_placement import least_startup_time
from deepserve_controller.policies.parking import models_sleep
from deepserve_controller.policies.pod_source import fork_bursts
from deepserve_controller.policies.prewarm import ReactivePool
from deepserve_controller.policies.retry import backoff_delay_s
from deepserve_controller.policies.routing import least_loaded

WARM_PODS: Mapping[str, int] = {"python": 1}
AUTOSCALER: Autoscaler = Reactive()


def build_job_executor(
    ids: IdAllocator,
    random: Random,
    grace_s: float = 1.0,
    system_retries: int = 3,
    max_depth: int = 100,
    chunking: Chunking = by_run_time,
    model_routing: ModelRouting = MODEL_ROUTING,
) -> JobExecutor:
    """`random` is for retry jitter and for sending a prompt away from its cache now and then; `grace_s` is what stopped
    code gets; `max_depth` bounds recursion."""
    return JobExecutor(
        ids, random, least_loaded, backoff_delay_s, until_the_gap_is_small, grace_s, system_retries, max_depth,
        chunking, model_routing,
    )  # fmt: skip


def build_cluster_manager(
    ids: IdAllocator,
    default_max_pods: int,
    warm_pods: Mapping[str, int] = WARM_PODS,
    stop_grace_s: float = 5.0,
    usable_mib: int = 0,
    autoscaler: Autoscaler = AUTOSCALER,
    choose_source: ChooseSource = fork_bursts,
    devices: tuple[Device, ...] = (),
    model_autoscaler: Autoscaler = MODEL_AUTOSCALER,
    place: PlaceEngine = least_startup_time,
    preload: Preload = PRELOAD,
) -> ClusterManager:
    """`default_max_pods` is the host's bound for functions with `max_pods` 0; `warm_pods` by environment, at least.

    `usable_mib`: memory of the host that pods may have, 0 without a bound. `devices`: its NPUs and GPUs.
    """
    prewarm = ReactivePool(warm_pods)
    environments = tuple(sorted(warm_pods))
    manager = ClusterManager(
        ids,
        autoscaler,
        prewarm,
        choose_source,
        default_max_pods,
        stop_grace_s,
        environments,
        usable_mib,
        models_sleep,
        devices,
        model_autoscaler,
        place,
        preload,
    )
    manager.templates.keep_worth = saved_per_memory
    return manager
