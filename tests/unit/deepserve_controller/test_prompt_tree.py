"""The prompt tree: against a plain table of who holds what, and within its bound."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deepserve_controller.core.prompt_tree import TIERS, Match, PromptTree, Residence

ENGINES = ("pod-1", "pod-2", "pod-3")


def prompt(*branches: int) -> tuple[int, ...]:
    """Names of a way down a tree: each stands for all before it."""
    names, name = [], 0
    for branch in branches:
        name = name * 3 + branch + 1
        names.append(name)
    return tuple(names)


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(lambda branches: prompt(*branches))


class Trees(RuleBasedStateMachine):
    """Whatever engines say, a match is the run of leading blocks that the table knows them to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PromptTree()
        self.table: dict[tuple[str, int], Residence] = {}

    @rule(engine=st.sampled_from(ENGINES), names=PROMPTS)
    def expect(self, engine: str, names: tuple[int, ...]) -> None:
        self.tree.expect(engine, names)
        for name in names:
            self.table.setdefault((engine, name), "expected")

    @rule(engine=st.sampled_from(ENGINES), names=PROMPTS)
    def settle(self, engine: str, names: tuple[int, ...]) -> None:
        self.tree.settle(engine, names)
        for name in names:
            if self.table.get((engine, name)) == "expected":
                del self.table[engine, name]

    @rule(engine=st.sampled_from(ENGINES), names=PROMPTS, residence=st.sampled_from(["device", "host", "file", None]))
    def note(self, engine: str, names: tuple[int, ...], residence: Residence | None) -> None:
        self.tree.note(engine, residence, names)
        for name in names:
            if residence is None:
                self.table.pop((engine, name), None)
            else:
                self.table[engine, name] = residence

    @rule(engine=st.sampled_from(ENGINES))
    def remove(self, engine: str) -> None:
        self.tree.remove(engine)
        self.table = {key: value for key, value in self.table.items() if key[0] != engine}

    @rule(names=PROMPTS)
    def match(self, names: tuple[int, ...]) -> None:
        expected = {}
        for engine in ENGINES:
            tiers: list[int] = []
            for name in names:
                if (engine, name) not in self.table:
                    break
                tiers.append(max([TIERS[self.table[engine, name]], *tiers[-1:]]))
            if tiers:
                expected[engine] = Match(*(tiers.count(tier) for tier in range(3)))
        assert self.tree.match(names) == expected

    @invariant()
    def books_agree(self) -> None:
        self.tree.check_invariants()
        assert len(self.tree) == len(self.table)


class BoundedTrees(Trees):
    """What a full tree forgets is missing, and nothing else is wrong: it never tells of what nobody holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PromptTree(max_entries=6)

    @rule(names=PROMPTS)
    def match(self, names: tuple[int, ...]) -> None:
        for engine, found in self.tree.match(names).items():
            assert all((engine, name) in self.table for name in names[: found.blocks])

    @invariant()
    def books_agree(self) -> None:
        self.tree.check_invariants()
        assert len(self.tree) <= 6


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBoundedTrees = BoundedTrees.TestCase
TestBoundedTrees.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_full_tree_forgets_what_was_not_asked_for_longest_and_ends_before_beginnings() -> None:
    tree = PromptTree(max_entries=4)
    tree.note("pod-1", "device", prompt(0, 0))
    tree.expect("pod-1", prompt(1, 0))
    tree.match(prompt(0, 0))
    tree.expect("pod-1", prompt(2))
    assert tree.match(prompt(1, 0)) == {"pod-1": Match(1)}, "its end was forgotten, not its beginning"
    assert tree.match(prompt(0, 0)) == {"pod-1": Match(2)}
