"""What the job executor does with calls, streams, maps and models, while nothing goes wrong."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome, Value
from deepserve_controller.core.actions import FinishItem, FinishRequest, SendCredit, SendTask
from deepserve_controller.core.events import (
    CreditGranted,
    DemandChanged,
    FunctionRemoved,
    MapInputArrived,
    MapInputsEnded,
    Payload,
    PodBusy,
    PodDrained,
    PodDrainStarted,
    PodIdle,
    PodStartFailed,
    RequestArrived,
    TaskBlocked,
    TaskResumed,
)
from deepserve_controller.core.function_book import NUM_REMOVED
from tests.unit.deepserve_controller.harness import Jobs, news, of_type, only

THREE = Payload(Value("pickle", 1), b"3")
NINE = Payload(Value("pickle", 1), b"9")


def test_a_warm_call_goes_straight_to_the_pod_and_back(jobs: Jobs) -> None:
    jobs.define(timeout_s=30.0)
    jobs.pod()
    jobs.advance(2.0)
    actions = jobs(RequestArrived("rq", "link", "fn", method="m", payload=THREE))
    assert only(actions, SendTask) == SendTask(
        "pod-1", "task-1", 1, "rq", "job-1", "fn", "call", "m", -1, 30.0, 0, THREE
    )
    assert [type(event) for event in news(actions, object)] == [PodBusy]
    jobs.advance(0.5)
    actions = jobs.finish("task-1", payload=NINE)
    finish = only(actions, FinishRequest)
    assert (finish.outcome.kind, finish.payload, finish.link_id) == ("ok", NINE, "link")
    timings = finish.timings
    assert (timings.job_id, timings.task_id, timings.pod_id, timings.attempts) == ("job-1", "task-1", "pod-1", 1)
    assert (timings.queued_ms, timings.run_ms, timings.total_ms) == (0.0, 5.0, 500.0)
    assert [type(event) for event in news(actions, object)] == [PodIdle]


def test_calls_wait_in_order_for_a_slot(jobs: Jobs) -> None:
    jobs.define()
    [demand] = news(jobs(RequestArrived("a", "link", "fn")), DemandChanged)
    assert (demand.queued, demand.running, demand.oldest_arrival_s) == (1, 0, 0.0)
    jobs.advance(1.0)
    jobs(RequestArrived("b", "link", "fn"))
    actions = jobs.pod()
    assert [task.request_id for task in of_type(actions, SendTask)] == ["a"]
    jobs.advance(1.0)
    actions = jobs.finish("task-1")
    assert only(actions, SendTask).request_id == "b"
    assert not news(actions, PodIdle)
    [demand] = news(actions, DemandChanged)
    assert (demand.queued, demand.running) == (0, 1)
    finish = only(jobs.finish("task-2"), FinishRequest)
    assert finish.timings.queued_ms == 1000.0


def test_the_least_loaded_pod_is_chosen_and_ties_go_to_the_first_id(jobs: Jobs) -> None:
    jobs.define(max_inputs=2)
    for pod_id in ("pod-10", "pod-9", "pod-2"):
        jobs.pod(pod_id, slots=2)
    chosen = [only(jobs(RequestArrived(f"rq-{n}", "link", "fn")), SendTask).pod_id for n in range(6)]
    assert chosen == ["pod-2", "pod-9", "pod-10", "pod-2", "pod-9", "pod-10"]
    assert not of_type(jobs(RequestArrived("rq-6", "link", "fn")), SendTask)


def test_a_map_finishes_each_input_and_then_itself(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("map", "link", "fn", "map"))
    for index in range(3):
        jobs(MapInputArrived("map", index, THREE))
    jobs(MapInputArrived("map", 2, THREE))  # the same again
    jobs(MapInputsEnded("map", 3))
    items = []
    for number in range(1, 4):
        outcome = Outcome("error", "ValueError") if number == 2 else Outcome("ok")
        actions = jobs.finish(f"task-{number}", outcome=outcome)
        items.append(only(actions, FinishItem))
    assert [(item.index, item.outcome.kind) for item in items] == [(0, "ok"), (1, "error"), (2, "ok")]
    finish = only(actions, FinishRequest)
    assert (finish.outcome.kind, finish.count) == ("ok", 3)


def test_a_maps_timings_are_those_of_all_its_inputs(jobs: Jobs) -> None:
    jobs.define()
    jobs(RequestArrived("map", "link", "fn", "map"))
    for index in range(3):
        jobs(MapInputArrived("map", index, THREE))
    jobs(MapInputsEnded("map", 3))
    jobs.advance(1.0)
    jobs.pod()
    for task_id in ("task-1", "task-2", "task-3"):
        jobs.advance(2.0)
        actions = jobs.finish(task_id)
    finish = only(actions, FinishRequest)
    assert finish.count == 3
    assert (finish.timings.queued_ms, finish.timings.run_ms, finish.timings.total_ms) == (1000.0, 15.0, 7000.0)


def test_a_map_may_learn_its_end_last_and_may_be_empty(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("map", "link", "fn", "map"))
    jobs(MapInputArrived("map", 0, THREE))
    assert not of_type(jobs.finish("task-1"), FinishRequest)
    assert only(jobs(MapInputsEnded("map", 1)), FinishRequest).count == 1
    jobs(RequestArrived("empty", "link", "fn", "map"))
    assert only(jobs(MapInputsEnded("empty", 0)), FinishRequest).outcome.is_ok


def test_a_streams_credit_reaches_the_pod(jobs: Jobs) -> None:
    jobs.define()
    jobs(RequestArrived("rq", "link", "fn", "stream"))
    jobs(CreditGranted("rq", 10))
    assert only(jobs.pod(), SendTask).credit == 74
    assert only(jobs(CreditGranted("rq", 5, 99)), SendCredit) == SendCredit("pod-1", "task-1", 5, 99)
    assert only(jobs.finish("task-1", count=7), FinishRequest).count == 7


def test_a_blocked_task_frees_its_slot_and_takes_it_back(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("a", "link", "fn"))
    jobs(RequestArrived("b", "link", "fn"))
    assert only(jobs(TaskBlocked("task-1")), SendTask).request_id == "b"
    jobs(TaskResumed("task-1"))
    jobs(RequestArrived("c", "link", "fn"))
    assert not of_type(jobs.finish("task-2"), SendTask)  # the resumed one holds the slot
    assert only(jobs.finish("task-1"), SendTask).request_id == "c"


def test_recursion_goes_deeper_than_there_are_pods(jobs: Jobs) -> None:
    jobs.define(max_pods=1)
    jobs.pod()
    parent = ""
    for depth in range(1, 8):
        jobs(RequestArrived(f"rq-{depth}", "link", "fn", parent_task_id=parent))
        parent = f"task-{depth}"
        jobs(TaskBlocked(parent))
    for depth in range(7, 0, -1):
        jobs(TaskResumed(f"task-{depth}"))
        assert only(jobs.finish(f"task-{depth}"), FinishRequest).request_id == f"rq-{depth}"


def model(jobs: Jobs) -> None:
    jobs.define("fn-tok", kind="tokenizer", name="tok", environment="tokenizer", max_inputs=8)
    jobs.define("fn-model", kind="model", name="model", environment="flowserve", max_inputs=32, tokenizer="fn-tok")


def test_a_model_request_is_tokenised_and_then_generated(jobs: Jobs) -> None:
    model(jobs)
    actions = jobs(RequestArrived("rq", "link", "fn-model", "stream", "chat", payload=THREE))
    wanted = {demand.function_id: demand.queued for demand in news(actions, DemandChanged)}
    assert wanted == {"fn-tok": 1, "fn-model": 1}  # both pods can start at once
    tokenise = only(jobs.pod("pod-1", "fn-tok", 8), SendTask)
    assert (tokenise.kind, tokenise.method, tokenise.payload, tokenise.credit) == ("call", "chat", THREE, 0)
    jobs.pod("pod-2", "fn-model", 32)
    generate = only(jobs.finish("task-1", payload=NINE), SendTask)
    assert (generate.pod_id, generate.kind, generate.method, generate.payload) == ("pod-2", "stream", "chat", NINE)
    assert generate.credit == 64
    finish = only(jobs.finish("task-2", payload=THREE, count=4), FinishRequest)
    assert (finish.payload, finish.count, finish.timings.pod_id) == (THREE, 4, "pod-2")


def test_a_request_that_its_tokenizer_refuses_at_once_asks_for_no_engine(jobs: Jobs) -> None:
    model(jobs)
    jobs.pod("pod-1", "fn-tok", 8)
    actions = jobs(RequestArrived("rq", "link", "fn-model"))
    actions += jobs.finish("task-1", outcome=Outcome("error", "prompt too long"))
    assert not news(actions, DemandChanged) and only(actions, FinishRequest).outcome.kind == "error"
    jobs(RequestArrived("other", "link", "fn-model"))
    [demand] = news(jobs.finish("task-2"), DemandChanged)
    assert (demand.function_id, demand.queued) == ("fn-model", 1), "one that is tokenised needs it"


def test_demand_ahead_ends_with_the_tokenizers_refusal(jobs: Jobs) -> None:
    model(jobs)
    jobs(RequestArrived("rq", "link", "fn-model"))
    jobs.pod("pod-1", "fn-tok", 8)
    wanted = news(jobs.finish("task-1", outcome=Outcome("error", "prompt too long")), DemandChanged)
    assert [(demand.function_id, demand.queued) for demand in wanted] == [("fn-model", 0)]


def test_an_error_of_the_tokenizer_ends_a_model_request(jobs: Jobs) -> None:
    model(jobs)
    jobs.pod("pod-1", "fn-tok")
    jobs.pod("pod-2", "fn-model", 32)
    jobs(RequestArrived("rq", "link", "fn-model"))
    actions = jobs.finish("task-1", outcome=Outcome("error", "prompt too long"), payload=NINE)
    finish = only(actions, FinishRequest)
    assert (finish.outcome, finish.payload) == (Outcome("error", "prompt too long"), NINE)
    assert not of_type(actions, SendTask)


def test_a_warm_model_request_reports_no_demand(jobs: Jobs) -> None:
    model(jobs)
    jobs.pod("pod-1", "fn-tok", 8)
    jobs.pod("pod-2", "fn-model", 32)
    actions = jobs(RequestArrived("rq", "link", "fn-model"))
    actions += jobs.finish("task-1") + jobs.finish("task-2")
    assert not news(actions, DemandChanged)


def test_a_map_over_a_model_runs_two_tasks_for_each_input(jobs: Jobs) -> None:
    model(jobs)
    jobs.pod("pod-1", "fn-tok", 8)
    jobs.pod("pod-2", "fn-model", 32)
    jobs(RequestArrived("map", "link", "fn-model", "map", "chat"))
    for index in range(2):
        jobs(MapInputArrived("map", index, THREE))
    jobs(MapInputsEnded("map", 2))
    assert only(jobs.finish("task-2"), SendTask).index == 1
    assert only(jobs.finish("task-1"), SendTask).index == 0
    assert only(jobs.finish("task-3"), FinishItem).index == 1
    actions = jobs.finish("task-4")
    assert only(actions, FinishItem).index == 0 and only(actions, FinishRequest).count == 2


def test_demand_grows_with_each_pod_needed_and_ends_when_the_queue_does(jobs: Jobs) -> None:
    jobs.define(max_inputs=2)
    queued = [
        [demand.queued for demand in news(jobs(RequestArrived(f"rq-{n}", "link", "fn")), DemandChanged)]
        for n in range(5)
    ]
    assert queued == [[1], [], [3], [], [5]]
    [demand] = news(jobs.pod("pod-1", slots=8), DemandChanged)
    assert (demand.queued, demand.running, demand.oldest_arrival_s) == (0, 5, None)


def test_pods_are_filled_to_their_target_first_and_to_their_slots_in_a_burst(jobs: Jobs) -> None:
    jobs.define(max_inputs=4, target_inputs=2)
    jobs.pod("pod-1", slots=4)
    jobs.pod("pod-2", slots=4)
    sent = [only(jobs(RequestArrived(f"rq-{n}", "link", "fn")), SendTask).pod_id for n in range(8)]
    assert sorted(sent[:4]) == ["pod-1", "pod-1", "pod-2", "pod-2"]
    assert sorted(sent[4:]) == sorted(sent[:4])
    assert not of_type(jobs(RequestArrived("rq-8", "link", "fn")), SendTask)


def test_what_runs_beyond_the_target_is_demand_though_nothing_waits(jobs: Jobs) -> None:
    jobs.define(max_inputs=4, target_inputs=2)
    jobs.pod("pod-1", slots=4)
    told = [news(jobs(RequestArrived(f"rq-{n}", "link", "fn")), DemandChanged) for n in range(4)]
    assert [[(demand.queued, demand.running) for demand in each] for each in told] == [[], [], [(0, 3)], []]
    less = [news(jobs.finish(f"task-{n}"), DemandChanged) for n in (1, 2, 3, 4)]
    assert [[demand.running for demand in each] for each in less] == [[], [2], [], []]


def test_tasks_can_be_counted_by_function(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    for number in range(3):
        jobs(RequestArrived(f"rq-{number}", "link", "fn"))
    assert jobs.core.load_of("fn") == (2, 1) and jobs.core.load_of("unknown") == (0, 0)


def test_a_draining_pod_gets_nothing_new_and_says_when_it_is_empty(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("a", "link", "fn"))
    assert not news(jobs(PodDrainStarted("pod-1")), PodDrained)
    assert not of_type(jobs(RequestArrived("b", "link", "fn")), SendTask)
    assert news(jobs.finish("task-1"), PodDrained) == [PodDrained("pod-1")]


def test_a_pod_drained_before_it_was_ready_gets_nothing(jobs: Jobs) -> None:
    jobs.define()
    jobs(RequestArrived("a", "link", "fn"))
    assert news(jobs(PodDrainStarted("pod-1")), PodDrained) == [PodDrained("pod-1")]
    assert not of_type(jobs.pod("pod-1"), SendTask)
    jobs(PodDrainStarted("pod-2"))
    jobs(PodStartFailed("pod-2", "its template ended"))
    assert only(jobs.pod("pod-2"), SendTask).request_id == "a", "nothing of a pod is kept that never came"


def test_unknown_and_removed_functions_are_refused_by_name(jobs: Jobs) -> None:
    refused = only(jobs(RequestArrived("a", "link", "fn-nowhere")), FinishRequest).outcome
    assert refused == Outcome("refused", "unknown function fn-nowhere")
    jobs.define()
    jobs(RequestArrived("b", "link", "fn"))
    finish = only(jobs(FunctionRemoved("fn")), FinishRequest)
    text = "app/f was removed: its app was stopped, or deployed again without it"
    assert (finish.request_id, finish.outcome) == ("b", Outcome("refused", text))
    assert only(jobs(RequestArrived("c", "link", "fn")), FinishRequest).outcome.kind == "refused"
    jobs.define()
    jobs(RequestArrived("d", "link", "fn"))
    assert only(jobs.pod(), SendTask).request_id == "d"


def test_a_model_without_its_tokenizer_is_refused(jobs: Jobs) -> None:
    jobs.define("fn-model", kind="model", tokenizer="fn-tok")
    refused = only(jobs(RequestArrived("a", "link", "fn-model")), FinishRequest).outcome
    assert refused == Outcome("refused", "app/f needs the tokenizer fn-tok, which is not defined")


def test_the_same_request_id_again_is_ignored_while_it_is_open(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("a", "link", "fn"))
    assert jobs(RequestArrived("a", "link", "fn")) == []


def test_only_the_last_removed_functions_are_remembered() -> None:
    jobs = Jobs()
    for number in range(NUM_REMOVED + 50):
        jobs.define(f"fn-{number}", name=f"f{number}")
        jobs(FunctionRemoved(f"fn-{number}"))
    first, last = (jobs(RequestArrived(name, "link-1", f"fn-{n}")) for name, n in (("a", 0), ("b", NUM_REMOVED + 49)))
    assert only(first, FinishRequest).outcome.detail == "unknown function fn-0"
    assert only(last, FinishRequest).outcome.detail.startswith(f"app/f{NUM_REMOVED + 49} was removed:")
