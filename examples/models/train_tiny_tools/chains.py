"""Turns whose later calls need the results of earlier ones."""

from __future__ import annotations

from .catalogue import ADD, COUNTERS, MULTIPLY, SUBTRACT, TIME, WEATHER
from .catalogue_office import CAPITAL, EMAIL, MANAGER, MESSAGE, PHONE, POPULATION
from .kinds import Kind
from .phrases import fill
from .synthetic import lookup_kind
from .turns import Bench, Call, DoesNotFit, Turn, facts_of
from .values import draw


def _two_counts(bench: Bench) -> tuple[Kind, list[str], list[Call]]:
    tool = bench.need(bench.rng.choice(COUNTERS[:3] if bench.rng.random() < 0.6 else COUNTERS))
    values = [bench.values(tool.kind)[0], bench.values(tool.kind)[0]]
    if values[0] == values[1]:
        raise DoesNotFit
    calls = [bench.call(tool, [v]) for v in values]
    return tool.kind, values, calls


def together(bench: Bench) -> Turn:
    """`How many functions do json and csv define together?`: two counts at once, then their sum if a tool can add."""
    kind, values, calls = _two_counts(bench)
    noun = kind.noun
    question = fill(
        bench.phrase(
            [
                f"How many {noun} do {{0}} and {{1}} (define|have|contain) (together|together|in total|altogether)?",
                f"(What is the total number|Tell me the total number|Give me the total) of {noun} in {{0}} and "
                f"{{1}}(?|.)",
                f"How many {noun} are (there|) in {{0}} and {{1}} (together|in total|altogether)?",
                f"(Count|count|Sum|sum) the {noun} of {{0}} and {{1}} together(.|)",
                f"{{0}} (plus|and) {{1}}(,|:) how many {noun} is that (together|in total)?",
            ]
        ),
        values,
    )
    if not bench.has(ADD.group) and bench.rng.random() < 0.25:
        bench.refuse(ADD.group)
        return Turn("parallel calls", question, [calls], " ".join(c.said for c in calls), facts_of(calls))
    total = bench.call(bench.need(ADD), [c.content for c in calls])
    answer = f"{values[0]} and {values[1]} have {total.content} {noun} together."
    return Turn("chained calls", question, [calls, [total]], answer, (*values, total.content))


def more_than(bench: Bench) -> Turn:
    """`How many more functions does json have than csv?`"""
    kind, values, calls = _two_counts(bench)
    if int(calls[0].result) <= int(calls[1].result):
        values, calls = values[::-1], calls[::-1]
    noun = kind.noun
    question = fill(
        bench.phrase(
            [
                f"How many more {noun} does {{0}} (define|have|contain) than {{1}}?",
                f"(What is|Tell me) the difference (of|between) the {noun} of {{0}} and {{1}}(?|.)",
                f"By how many {noun} is {{0}} (ahead of|bigger than) {{1}}?",
            ]
        ),
        values,
    )
    less = bench.call(bench.need(SUBTRACT), [c.content for c in calls])
    answer = f"{values[0]} has {less.content} more {noun} than {values[1]}."
    return Turn("chained calls", question, [calls, [less]], answer, (*values, less.content))


_STEPS = (
    (
        MULTIPLY,
        ADD,
        [
            "(What is|How much is|Calculate|) {0} times {1} (plus|+) {2}(?|)",
            "Multiply {0} by {1} and add {2}(.|)",
            "{0} times {1}, then plus {2}(.|?)",
        ],
    ),
    (
        MULTIPLY,
        SUBTRACT,
        [
            "(What is|How much is|Calculate|) {0} times {1} minus {2}(?|)",
            "Multiply {0} by {1} and subtract {2}(.|)",
            "{0} times {1}, then minus {2}(.|?)",
        ],
    ),
    (
        ADD,
        MULTIPLY,
        [
            "(What is|How much is|Calculate|) {0} plus {1}, times {2}(?|)",
            "Add {0} and {1} and multiply by {2}(.|)",
            "{0} plus {1}, then times {2}(.|?)",
        ],
    ),
    (
        ADD,
        SUBTRACT,
        [
            "(What is|How much is|Calculate|) {0} plus {1} minus {2}(?|)",
            "Add {0} and {1} and subtract {2}(.|)",
            "{0} plus {1}, then minus {2}(.|?)",
        ],
    ),
    (
        SUBTRACT,
        MULTIPLY,
        [
            "(What is|How much is|Calculate|) {0} minus {1}, times {2}(?|)",
            "Subtract {1} from {0} and multiply by {2}(.|)",
            "{0} minus {1}, then times {2}(.|?)",
        ],
    ),
)


def calculation(bench: Bench) -> Turn:
    """Two steps of arithmetic."""
    first, second, asks = bench.rng.choice(_STEPS)
    numbers = [draw("integer", bench.rng, bench.heldout) for _ in range(3)]
    one = bench.call(bench.need(first), numbers[:2])
    two = bench.call(bench.need(second), [one.content, numbers[2]])
    question = fill(bench.phrase(asks), numbers)
    return Turn("chained calls", question, [[one], [two]], f"The result is {two.content}.", (two.content,))


def scaled_count(bench: Bench) -> Turn:
    """A count that is then multiplied or raised."""
    tool = bench.need(bench.rng.choice(COUNTERS[:4]))
    counted = bench.call(tool, bench.values(tool.kind))
    number = draw("integer", bench.rng, bench.heldout)
    noun = tool.kind.noun
    kind, asks = bench.rng.choice(
        (
            (
                MULTIPLY,
                [
                    f"(What is|How much is|Tell me) the number of {noun} in {{0}} times {{1}}?",
                    f"Multiply the number of {noun} in {{0}} by {{1}}(.|)",
                ],
            ),
            (
                ADD,
                [
                    f"(What is|How much is|Tell me) the number of {noun} in {{0}} plus {{1}}?",
                    f"Take the number of {noun} in {{0}} and add {{1}}(.|)",
                ],
            ),
            (
                SUBTRACT,
                [
                    f"(What is|How much is|Tell me) the number of {noun} in {{0}} minus {{1}}?",
                    f"Take the number of {noun} in {{0}} and subtract {{1}}(.|)",
                ],
            ),
        )
    )
    question = fill(bench.phrase(asks), [counted.values[0], number])
    worked = bench.call(bench.need(kind), [counted.content, number])
    return Turn("chained calls", question, [[counted], [worked]], f"The result is {worked.content}.", (worked.content,))


def lookup_chain(bench: Bench) -> Turn:
    """`What is the weather in the capital of Peru?`, `Tell the manager of Anna to call.`"""
    if bench.rng.random() < 0.5:
        first, middle = CAPITAL, "the capital of {0}"
        second = bench.rng.choice((WEATHER, TIME, POPULATION))
    else:
        first, middle = MANAGER, "the manager of {0}"
        second = bench.rng.choice((EMAIL, PHONE, MESSAGE))
    one = bench.call(bench.need(first), bench.values(first))
    tool = bench.need(second)
    values = [one.content, *bench.values(second)[1:]]
    phrase = bench.ask(second)
    question = fill(phrase.replace("{0}", middle), [one.values[0], *values[1:]])
    two = bench.call(tool, values)
    return Turn("chained calls", question, [[one], [two]], two.said, (values[0], *facts_of([two])))


def invented_chain(bench: Bench) -> Turn:
    """Two invented tools, one on the result of the other."""
    one_kind, two_kind = lookup_kind(bench.rng, bench.heldout), lookup_kind(bench.rng, bench.heldout)
    if one_kind.noun == two_kind.noun or two_kind.parameters[0].type != "string" or len(one_kind.asks) < 1:
        raise DoesNotFit
    one = bench.call(bench.need(one_kind), bench.values(one_kind))
    if not isinstance(one.result, str):
        raise DoesNotFit
    subject = one_kind.outcomes[0].say.split(" is ")[0][4:]
    question = f"What is the {two_kind.noun} of the {fill(subject, one.values)}?"
    two = bench.call(bench.need(two_kind), [one.result])
    return Turn("chained calls", question, [[one], [two]], two.said, facts_of([two]))


CHAINS = (together, together, more_than, calculation, scaled_count, lookup_chain, lookup_chain, invented_chain)
