"""How many requests may be at a model's pods."""

from __future__ import annotations

from deepserve_controller.policies.admission_window import HEADROOM, SLOTS_OF_UNKNOWN_POD, admission_window


def test_a_cold_model_gets_what_all_its_pods_could_take() -> None:
    assert admission_window(slots_per_pod=1, ready_slots=0, starting_pods=0, max_pods=8) == 8 * SLOTS_OF_UNKNOWN_POD
    assert admission_window(slots_per_pod=32, ready_slots=32, starting_pods=1, max_pods=4) == 128


def test_settled_pods_get_little_more_than_they_can_take_at_once() -> None:
    assert admission_window(slots_per_pod=32, ready_slots=64, starting_pods=0, max_pods=8) == 64 + HEADROOM
    assert admission_window(slots_per_pod=32, ready_slots=64, starting_pods=0, max_pods=2) == 64
