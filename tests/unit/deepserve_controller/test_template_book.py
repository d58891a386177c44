"""What stays known of functions' templates when these are gone."""

from __future__ import annotations

from deepserve_controller.core.memory_views import HeldTemplate
from deepserve_controller.core.popularity import HALF_LIFE_S
from deepserve_controller.core.template_book import NUM_REFUSALS, TemplateBook


def test_another_book_learns_what_one_has_held() -> None:
    book, later = TemplateBook(), TemplateBook()
    assert book.held("f", 0.0) == HeldTemplate(0, 0.0, 0.0) and not book.was_loaded("f")
    book.loaded("f", 300, 2500.0)
    book.used("f", 0.0)
    book.used("f", HALF_LIFE_S)
    assert book.held("f", HALF_LIFE_S) == HeldTemplate(300, 1.5, 2500.0)
    later.learn("f", book.held("f", HALF_LIFE_S), HALF_LIFE_S)
    assert later.held("f", 2 * HALF_LIFE_S) == HeldTemplate(300, 0.75, 2500.0) and later.was_loaded("f")
    later.learn("g", HeldTemplate(0, 1.0, 0.0), 0.0)
    assert not later.was_loaded("g")


def test_a_forgotten_function_may_be_another_one() -> None:
    book = TemplateBook()
    book.loaded("f", 300, 2500.0)
    book.loaded_in_pod("f", 20.0)
    book.refused("f", "it has threads")
    book.used("f", 0.0)
    assert (book.refusal("f"), book.pod_load_ms("f")) == ("it has threads", 20.0)
    book.forget("f")
    assert (book.refusal("f"), book.pod_load_ms("f"), book.was_loaded("f")) == ("", 0.0, False)
    assert book.held("f", 0.0).uses == 1.0


def test_only_the_latest_refusals_are_kept() -> None:
    book = TemplateBook()
    for number in range(NUM_REFUSALS + 1):
        book.refused(f"f{number}", "it has threads")
    assert (book.refusal("f0"), book.refusal("f1")) == ("", "it has threads")
