"""How many requests of a model may be at its pods."""

from __future__ import annotations

from deepserve_controller.policies.admission_window import HEADROOM, SLOTS_OF_UNKNOWN_POD, admission_window


def test_a_cold_model_gets_what_all_its_pods_could_take() -> None:
    assert admission_window(1, ready_pods=0, starting_pods=0, max_pods=8) == (8 * SLOTS_OF_UNKNOWN_POD,) * 2
    assert admission_window(32, ready_pods=1, starting_pods=1, max_pods=4) == (128, 160)


def test_settled_pods_get_little_more_than_they_can_take_at_once() -> None:
    assert admission_window(32, ready_pods=2, starting_pods=0, max_pods=8) == (64 + HEADROOM, 128 + HEADROOM)


def test_who_is_below_his_share_finds_as_many_slots_again() -> None:
    assert admission_window(32, ready_pods=2, starting_pods=0, max_pods=2) == (64, 128)
