"""Which engine takes a prompt: the policy alone, the books it looks into, and both inside the job executor."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import EngineReport, Outcome, RequestKind
from deepserve.protocol.prompt_blocks import PromptBlocks, pack, unpack
from deepserve_controller.build import build_job_executor
from deepserve_controller.core.actions import SendTask
from deepserve_controller.core.engine_book import EngineBook
from deepserve_controller.core.events import (
    DemandChanged,
    EngineReported,
    PodLost,
    RequestArrived,
    RequestCancelled,
    TaskProduced,
)
from deepserve_controller.core.prompt_tree import PromptTree
from deepserve_controller.core.routing_views import EngineView, Routed
from deepserve_controller.policies.model_router import BlockCost, RoundRobin
from flowserve.rtc.index import block_hashes
from tests.unit.deepserve_controller.harness import Driven, Jobs, news, only


def prompt(*names: int, tokens: int = 0) -> PromptBlocks:
    return PromptBlocks(tokens or 32 * len(names), struct.pack(f"<{len(names)}Q", *names))


def engine(pod_id: str, load: int = 0, prefill: int = 0, decode: int = 0, **held: int) -> EngineView:
    return EngineView(pod_id, 4, load, prefill, decode, **held, has_reported=True)


TEN = prompt(*range(1, 11))


def chosen(*engines: EngineView, given: PromptBlocks | None = TEN, draw: float = 0.5) -> str:
    routed = BlockCost().choose(engines, given, draw)
    assert routed is not None and routed.reason
    return routed.pod_id


def test_names_of_beginnings_survive_the_wire() -> None:
    digests = block_hashes(list(range(100)), 32)
    names = pack(digests)
    assert len(names) == 24 and len(unpack(names)) == 3
    assert unpack(names + b"half") == unpack(names)
    longer = pack(block_hashes([*range(96), 7, *range(31)], 32))
    assert longer[:24] == names and PromptBlocks(100, names).num_blocks == 4


def test_who_holds_the_beginning_is_preferred_until_it_is_far_busier() -> None:
    holder = engine("pod-2", load=1, prefill=10, decode=10, device=10)
    assert chosen(engine("pod-1"), holder) == "pod-2"
    assert chosen(engine("pod-1"), holder._replace(prefill_blocks=40)) == "pod-1", "the gate is open"
    assert chosen(engine("pod-1"), holder, draw=0.001) == "pod-1", "now and then the least cost counts alone"
    assert chosen(engine("pod-1"), holder._replace(load=4)) == "pod-1", "no room"


def test_what_lies_in_lower_tiers_saves_less() -> None:
    policy = BlockCost()
    costs = [policy.cost(each, 10) for each in (engine("a", device=8), engine("a", host=8), engine("a", file=8))]
    assert costs == [12.0, 14.0, 18.0]
    assert policy.cost(engine("a", device=10, prefill=3), 5) == 5.0, "no credit for the work of others"


def test_of_equals_the_first_and_without_a_prompt_the_least_loaded() -> None:
    assert chosen(engine("pod-1"), engine("pod-2")) == "pod-1"
    assert chosen(engine("pod-1", load=2), engine("pod-2", load=1), given=None) == "pod-2"
    assert BlockCost().choose([engine("pod-1", load=4)], TEN, 0.5) is None
    assert BlockCost().choose([], TEN, 0.5) is None


def test_where_no_engine_reports_prompts_meet_by_their_beginning_within_a_bound() -> None:
    silent = [EngineView(f"pod-{number}", 32, 0) for number in range(1, 9)]
    homes = {name: chosen(*silent, given=prompt(name, 2, 3)) for name in range(200)}
    assert set(homes.values()) == {each.pod_id for each in silent}
    fewer = silent[:-1]
    moved = [n for n, home in homes.items() if home != "pod-8" and chosen(*fewer, given=prompt(n, 2, 3)) != home]
    assert not moved, "when an engine goes, only its own prompts move"
    busy = [each._replace(load=10 if each.pod_id == homes[7] else 1) for each in silent]
    assert chosen(*busy, given=prompt(7, 2, 3)) != homes[7]


VIEWS = st.lists(
    st.builds(
        lambda load, prefill, decode, device, host, file, reports: EngineView(
            "", 4, load, prefill, decode, device, host, file, reports
        ),
        *(st.integers(0, 5) for _ in range(6)), st.booleans(),
    ),
    max_size=5,
).map(lambda views: [view._replace(pod_id=f"pod-{n}") for n, view in enumerate(views)])  # fmt: skip


@given(views=VIEWS, names=st.lists(st.integers(0, 9), max_size=6), draw=st.floats(0, 1, exclude_max=True))
def test_it_chooses_whoever_has_room_and_never_anybody_else(
    views: list[EngineView], names: list[int], draw: float
) -> None:
    for policy in (BlockCost(), RoundRobin()):
        routed = policy.choose(views, prompt(*names, tokens=200), draw)
        free = {view.pod_id for view in views if view.load < view.slots}
        assert (routed.pod_id in free) if routed is not None else not free


# --- the book -------------------------------------------------------------------------------------------


def test_a_prompt_is_charged_until_its_first_token_and_its_blocks_until_its_end() -> None:
    book = EngineBook()
    book.add("pod-1")
    book.assigned("pod-1", "task-1", TEN, 1.0)
    book.assigned("pod-1", "task-2", TEN, 1.0)
    [view] = book.views([engine("pod-1")], TEN)
    assert (view.prefill_blocks, view.decode_blocks, view.device) == (10, 20, 10), "the second shares all"
    report = EngineReport(
        on_device=TEN.names, began=("task-1",), steps=1, step_ms=20.0, prompt_tokens=8, prompt_ms=20.0
    )
    book.reported("pod-1", report, 3.0)
    [view] = book.views([engine("pod-1")], TEN)
    assert (view.prefill_blocks, view.decode_blocks) == (0, 20)
    assert book.pace.step_s == pytest.approx(0.02) and book.pace.prompt_tokens_per_s == 400.0
    assert book.pace.late_p95_s(3.0) == pytest.approx(2.0 - 320 / 400.0), "beyond what its own prompt takes"
    book.left("pod-1", "task-1")
    book.left("pod-1", "task-2")
    [view] = book.views([engine("pod-1")], TEN)
    assert (view.prefill_blocks, view.decode_blocks, view.device) == (0, 0, 10)
    book.reported("pod-1", EngineReport(gone=TEN.names[-16:], on_host=TEN.names[32:64]), 4.0)
    [view] = book.views([engine("pod-1")], TEN)
    assert (view.device, view.host) == (4, 4)
    book.remove("pod-1")
    assert len(book.tree) == 0


def test_what_an_engine_was_expected_to_hold_and_never_said_is_forgotten_with_the_task() -> None:
    for reports in (False, True):
        book = EngineBook()
        book.add("pod-1")
        if reports:
            book.reported("pod-1", EngineReport(), 0.0)
        book.assigned("pod-1", "task-1", TEN, 1.0)
        book.left("pod-1", "task-1")
        assert len(book.tree) == (0 if reports else 10), "who never reports is believed to keep it"


class BrokenTree(PromptTree):
    def match(self, names: Sequence[int]) -> dict[str, object]:  # type: ignore[override]
        raise RuntimeError("the tree is broken")


class BrokenPolicy:
    def choose(self, engines: Sequence[EngineView], prompt: PromptBlocks | None, draw: float) -> Routed | None:
        return Routed("pod-9", "out of the blue")


# --- in the job executor ----------------------------------------------------------------------------------


def serving(jobs: Jobs, num_pods: int = 2, slots: int = 4) -> None:
    jobs.define("fn-tok", kind="tokenizer", name="tok", max_inputs=8)
    jobs.define("fn-model", kind="model", name="model", max_inputs=slots, tokenizer="fn-tok")
    jobs.pod("pod-tok", "fn-tok", 8)
    for number in range(1, num_pods + 1):
        jobs.pod(f"pod-{number}", "fn-model", slots)
        jobs(EngineReported(f"pod-{number}", EngineReport()))


def asked(
    jobs: Jobs, request_id: str, given: PromptBlocks, kind: RequestKind = "call", is_ahead: bool = False
) -> SendTask:
    jobs(RequestArrived(request_id, "link", "fn-model", kind, is_ahead=is_ahead))
    jobs.finish(jobs.sent[request_id].task_id, prompt=given)
    return jobs.sent[request_id]


def test_a_conversation_stays_where_its_cache_is(jobs: Jobs) -> None:
    serving(jobs)
    first = asked(jobs, "rq-1", TEN)
    other = asked(jobs, "rq-2", prompt(*range(50, 60)))
    assert (first.pod_id, other.pod_id) == ("pod-1", "pod-2")
    jobs(EngineReported("pod-1", EngineReport(on_device=TEN.names, began=(first.task_id,))))
    jobs(EngineReported("pod-2", EngineReport(on_device=b"", began=(other.task_id,))))
    jobs.finish(other.task_id)
    jobs.finish(first.task_id)
    again = asked(jobs, "rq-3", prompt(*range(1, 13)))
    assert again.pod_id == "pod-1"
    jobs(PodLost("pod-1", "killed", -9))
    assert jobs.sent["rq-3"].pod_id == "pod-2", "a model's task is run again, and the tree knows nothing of pod-1"


def test_prompts_that_share_nothing_are_spread_by_their_blocks(jobs: Jobs) -> None:
    serving(jobs)
    long = asked(jobs, "long", prompt(*range(100)))
    short = [asked(jobs, f"short-{number}", prompt(1000 + number)) for number in range(3)]
    assert long.pod_id == "pod-1" and {each.pod_id for each in short} == {"pod-2"}
    jobs(TaskProduced(long.task_id, 1, 0))  # of a stream its first item says as much as a report
    jobs(RequestCancelled("long"))
    jobs.finish(long.task_id, outcome=Outcome("cancelled"))
    assert asked(jobs, "next", prompt(2000)).pod_id == "pod-1"


def test_who_takes_a_seat_needs_no_free_slot_and_waits_for_its_like_alone(jobs: Jobs) -> None:
    serving(jobs, num_pods=2, slots=2)
    for number in range(4):
        assert asked(jobs, f"rq-{number}", prompt(number)).function_id == "fn-model"
    assert asked(jobs, "waits", prompt(9)).function_id == "fn-tok"
    ahead = [asked(jobs, f"ahead-{number}", prompt(100 + number), is_ahead=True) for number in range(5)]
    assert [each.pod_id for each in ahead[:4]] == ["pod-1", "pod-2", "pod-1", "pod-2"]
    assert ahead[4].function_id == "fn-tok", "a pod holds twice its slots, not more"
    for number in range(4):
        jobs.finish(jobs.sent[f"rq-{number}"].task_id)
    assert jobs.sent["waits"].function_id == "fn-tok", "pods are still full"
    jobs.finish(ahead[0].task_id)
    assert jobs.sent["waits"].pod_id == "pod-1"


def test_a_broken_tree_or_policy_costs_nobody_his_answer() -> None:
    executor = build_job_executor(IdAllocator(), Random(1), model_routing=BrokenPolicy())
    jobs = Jobs()
    Driven.__init__(jobs, executor)
    serving(jobs)
    assert asked(jobs, "rq-1", TEN).pod_id == "pod-1"
    book = EngineBook(BrokenTree)
    first = book.tree
    book.add("pod-1")
    book.assigned("pod-1", "task-1", TEN, 0.0)
    book.left("pod-1", "task-1")
    assert book.tree is not first
    with pytest.raises(RuntimeError):
        book.views([engine("pod-1")], TEN)


def test_tokens_that_wait_and_run_are_told_to_the_cluster_manager(jobs: Jobs) -> None:
    serving(jobs, num_pods=1, slots=1)
    jobs(RequestArrived("rq-1", "link", "fn-model"))
    actions = jobs.finish(jobs.sent["rq-1"].task_id, prompt=TEN)
    told = [demand for demand in news(actions, DemandChanged) if demand.function_id == "fn-model"]
    assert told[-1].tokens is not None and told[-1].tokens.prefill == 320
    jobs(RequestArrived("rq-2", "link", "fn-model"))
    actions = jobs.finish(jobs.sent["rq-2"].task_id, prompt=prompt(*range(50, 60), tokens=330))
    told = [demand for demand in news(actions, DemandChanged) if demand.function_id == "fn-model"]
    assert told[-1].tokens is not None and (told[-1].tokens.queued, told[-1].queued) == (330, 1)
    assert only(jobs.finish(jobs.sent["rq-1"].task_id), SendTask).request_id == "rq-2"


def test_a_plain_function_is_routed_by_load_alone() -> None:
    jobs = Jobs()
    Driven.__init__(jobs, build_job_executor(IdAllocator(), Random(1), model_routing=BrokenPolicy()))
    jobs.define("fn")
    jobs.pod("pod-1", "fn")
    jobs(RequestArrived("rq", "link", "fn"))
    assert jobs.sent["rq"].pod_id == "pod-1"
