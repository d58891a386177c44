"""The kinds of tools that dialogues offer: over code, numbers, the world, an office and a platform of functions."""

from __future__ import annotations

import random
from typing import Any

from .kinds import Kind, Outcome, Parameter
from .values import SOURCES, draw, integer

MODULE = Parameter(
    "module|module_name|name|mod|package|target|source",
    "module",
    descriptions="Name of the module.|The module's name|Module name|Which module|Dotted name of the module.",
    key="module",
)
LEFT = Parameter("a|x|first|left|n|one", "integer", "integer", "First number.|The first number|Left number", "first")
RIGHT = Parameter(
    "b|y|second|right|m|two", "integer", "integer", "Second number.|The second number|Right number", "second"
)
CITY = Parameter(
    "city|place|location|town|where", "city", descriptions="Name of the city.|The city|City name|Where", key="city"
)
PERSON = Parameter(
    "person|name|who|user|employee",
    "person",
    descriptions="Name of the person.|The person|Who it is about",
    key="person",
)
TEXT_WORD = Parameter("word|text|term|string", "word", descriptions="The word.|A word|The text to look at", key="word")

PREFIX = "(|||Please |Can you |Could you )"


def number(low: int = 2, high: int = 400) -> Any:
    return lambda rng, values: rng.randrange(low, high) if rng.random() < 0.8 else int(integer(rng)) + 1


def value(source: str) -> Any:
    return lambda rng, values: draw(source, rng, rng.random() < 0.1)


def choice(options: str) -> Any:
    listed = options.split("|")
    return lambda rng, values: rng.choice(listed)


def longest(name_key: str, length_key: str) -> Any:
    return lambda rng, values: {name_key: SOURCES["identifier"](rng), length_key: rng.randrange(5, 300)}


def names_list(rng: random.Random, values: list[str]) -> list[str]:
    return [SOURCES["identifier"](rng) for _ in range(rng.choice((2, 3, 3, 4)))]


def _third(verb: str) -> str:
    return "has" if verb == "have" else verb + "s"


def counter(noun: str, one: str, verb: str, names: str, heldout: str) -> Kind:
    """A tool that counts something in a module."""
    return Kind(
        names=names,
        rare_names=heldout,
        descriptions=(
            f"Count the {noun} that a Python module {_third(verb)}.|Count the {noun} of a module.|Number of "
            f"{noun} in a module.|"
            f"How many {noun} a module {_third(verb)}.|Returns how many {noun} there are in a Python module|"
            f"Counts {noun} in the source."
        ),
        parameters=(MODULE,),
        asks=(
            f"How many {noun} does {{0}} ({verb}|have|contain)?",
            f"How many {noun} does (the module {{0}}|the {{0}} module|`{{0}}`) ({verb}|have|contain)?",
            f"How many {noun} are (there|) in {{0}}?",
            f"{PREFIX}count the {noun} (of|in) (|the module ){{0}}(.|)",
            f"(What is|Tell me|I need) the number of {noun} in {{0}}(?|.)",
            f"{{0}}: how many {noun}?",
        ),
        rare_asks=(f"I wonder how many {noun} {{0}} {_third(verb)}.", f"(Give|Show) me the {one} count of {{0}}."),
        outcomes=(Outcome(number(), f"{{0}} {_third(verb)} {{r}} {noun}."),),
        noun=noun,
        result_key=noun,
        group=f"count {noun}",
    )


def arithmetic(
    group: str, names: str, heldout: str, descriptions: str, asks: tuple[str, ...], held: str, say: str, work: Any
) -> Kind:
    """A tool over two numbers; the result is the true one."""
    return Kind(
        names=names,
        rare_names=heldout,
        descriptions=descriptions,
        parameters=(LEFT, RIGHT),
        asks=asks,
        rare_asks=(held,),
        outcomes=(Outcome(lambda rng, v: work(int(v[0]), int(v[1])), say),),
        group=group,
        result_key="result",
    )


COUNTERS = (
    counter(
        "functions",
        "function",
        "define",
        "count_functions|count_functions|function_count|num_functions|functions_in",
        "how_many_functions|n_functions",
    ),
    counter(
        "classes", "class", "define", "count_classes|class_count|num_classes|classes_in", "how_many_classes|n_classes"
    ),
    counter("lines", "line", "have", "count_lines|count_lines|line_count|num_lines|lines_of", "how_many_lines|n_lines"),
    counter("imports", "import", "have", "count_imports|import_count|num_imports", "how_many_imports"),
    counter("comments", "comment", "contain", "count_comments|comment_count|num_comments", "how_many_comments"),
    counter("tests", "test", "have", "count_tests|test_count|num_tests", "how_many_tests"),
    counter("words", "word", "contain", "count_words|word_count|num_words", "how_many_words"),
)

ADD = arithmetic(
    "add",
    "add|add|plus|sum_numbers|add_numbers|total",
    "sum_of|addition",
    "Add two whole numbers.|Add two numbers.|The sum of two numbers.|Adds a and b|Returns the sum|Sum of two integers.",
    (
        "What is {0} (plus|+) {1}?",
        "(Add|add) {0} (and|to) {1}(.|)",
        f"{PREFIX}(add|sum) {{0}} and {{1}}(.|?)",
        "(How much|What) is the sum of {0} and {1}?",
        "{0} (+|plus) {1}(?| = ?|)",
        "Calculate {0} (+|plus) {1}.",
    ),
    "If I have {0} and get {1} more, how many is that?",
    "{0} plus {1} is {r}.",
    lambda a, b: a + b,
)
SUBTRACT = arithmetic(
    "subtract",
    "subtract|subtract|minus|difference|sub|take_away",
    "subtraction|diff_of",
    "Subtract the second number from the first.|Subtract two whole numbers.|The difference of two numbers.|First "
    "minus second|Subtract b from a.",
    (
        "What is {0} (minus|-) {1}?",
        "(Subtract|subtract|Take) {1} from {0}(.|)",
        f"{PREFIX}subtract {{1}} from {{0}}(.|?)",
        "(How much|What) is the difference of {0} and {1}?",
        "{0} (-|minus) {1}(?| = ?|)",
        "Calculate {0} (-|minus) {1}.",
    ),
    "If I have {0} and give away {1}, how many are left?",
    "{0} minus {1} is {r}.",
    lambda a, b: a - b,
)
MULTIPLY = arithmetic(
    "multiply",
    "multiply|multiply|times|product|mul|multiply_numbers",
    "multiplication|product_of",
    "Multiply two whole numbers.|Multiply two numbers.|The product of two numbers.|Multiplies a by b|Returns the "
    "product",
    (
        "What is {0} (times|*|x|multiplied by) {1}?",
        "(Multiply|multiply) {0} (by|and|with) {1}(.|)",
        f"{PREFIX}multiply {{0}} (by|and) {{1}}(.|?)",
        "(How much|What) is the product of {0} and {1}?",
        "{0} (*|times) {1}(?| = ?|)",
        "Calculate {0} (*|times) {1}.",
    ),
    "How much is {0} by {1}, multiplied?",
    "{0} times {1} is {r}.",
    lambda a, b: a * b,
)
DIVIDE = arithmetic(
    "divide",
    "divide|div|quotient|divide_numbers",
    "division|quotient_of",
    "Divide the first number by the second.|Divide two numbers.|The quotient of two numbers.|Whole-number division",
    (
        "What is {0} (divided by|/|over) {1}?",
        "(Divide|divide) {0} by {1}(.|)",
        f"{PREFIX}divide {{0}} by {{1}}(.|?)",
        "{0} (/|divided by) {1}(?| = ?|)",
        "Calculate {0} (/|divided by) {1}.",
    ),
    "How often does {1} go into {0}?",
    "{0} divided by {1} is {r}.",
    lambda a, b: a // b,
)
ARITHMETIC = (ADD, SUBTRACT, MULTIPLY, DIVIDE)


def longest_kind(noun: str, names: str, heldout: str) -> Kind:
    return Kind(
        names,
        f"Find the longest {noun} of a module.|The longest {noun} in a Python module.|Longest {noun} and its "
        "number of lines.|"
        f"Returns the {noun} with the most lines|Name and length of the longest {noun} that a module defines.",
        (MODULE,),
        (
            f"(Which {noun} is the longest|Which is the longest {noun}|What is the longest {noun}) (in|of) {{0}}?",
            f"(Which {noun} is the longest|Which is the longest {noun}|What is the longest {noun}) (in|of) (the "
            f"module {{0}}|the {{0}} module|`{{0}}`)?",
            f"{PREFIX}find the longest {noun} (in|of) {{0}}(.|?)",
            f"(Tell|Show) me the longest {noun} (in|of) {{0}}(.|)",
            f"Which {noun} (in|of) {{0}} has the most lines?",
        ),
        (f"What {noun} takes the most lines in {{0}}?", f"In {{0}}, which {noun} is longest?"),
        (
            Outcome(longest("name", "lines"), f"The longest {noun} in {{0}} is {{r.name}} with {{r.lines}} lines."),
            Outcome(longest(noun, "lines"), f"The longest {noun} in {{0}} is {{r.{noun}}} with {{r.lines}} lines."),
            Outcome(longest("name", "length"), f"The longest {noun} in {{0}} is {{r.name}} with {{r.length}} lines."),
            Outcome(value("identifier"), f"The longest {noun} in {{0}} is {{r}}."),
        ),
        group=f"longest {noun}",
        noun=f"longest {noun}",
        result_key="longest",
        rare_names=heldout,
    )


def lookup(
    noun: str,
    parameter: Parameter,
    names: str,
    descriptions: str,
    *outcomes: Outcome,
    extra: tuple[str, ...] = (),
    held: str = "",
) -> Kind:
    """A tool that looks one thing up: `What is the NOUN of X?`"""
    return Kind(
        names,
        descriptions,
        (parameter,),
        (
            f"What is the {noun} of {{0}}?",
            f"(Tell|Show|Give) me the {noun} of {{0}}(.|)",
            f"{PREFIX}(look up|find|get) the {noun} of {{0}}(.|?)",
            f"I need the {noun} of {{0}}.",
            *extra,
        ),
        (held or f"Do you know the {noun} of {{0}}?",),
        outcomes,
        group=noun,
        noun=noun,
        result_key=noun.split()[-1],
    )


LONGEST = (
    longest_kind(
        "function",
        "longest_function|longest_function|find_longest_function|biggest_function",
        "function_with_most_lines",
    ),
    longest_kind("class", "longest_class|find_longest_class|biggest_class", "class_with_most_lines"),
)
LIST_FUNCTIONS = Kind(
    "list_functions|function_names|functions_of|get_functions",
    "List the functions of a module.|Names of the functions in a Python module.",
    (MODULE,),
    (
        "(Which|What) functions (does {0} define|does {0} have|are in {0})?",
        f"{PREFIX}list the functions (of|in) {{0}}(.|)",
        "(Name|Show me) the functions of {0}.",
    ),
    ("What are the functions of {0} called?",),
    (Outcome(names_list, "{0} defines {r}."),),
    group="list functions",
    result_key="functions",
)

SKY = "sunny|cloudy|rainy|windy|foggy|snowy|clear|stormy"


def weather_result(rng: random.Random, values: list[str]) -> dict[str, Any]:
    return {"sky": choice(SKY)(rng, values), "temperature": rng.randrange(-20, 40)}


WEATHER = Kind(
    "weather|get_weather|weather_in|current_weather|forecast",
    "The weather in a city.|Current weather of a city.|Get the weather for a place.|Weather report for a city",
    (CITY,),
    (
        "(What is|How is|What's) the weather (like|) in {0}(| today| now)?",
        "(Tell|Show) me the weather (in|for) {0}(.|)",
        f"{PREFIX}check the weather in {{0}}(.|?)",
        "How (warm|cold|hot) is it in {0}?",
        "Is it (raining|sunny|cold|warm) in {0}?",
    ),
    ("What weather do they have in {0}?", "Do I need an umbrella in {0}?"),
    (
        Outcome(weather_result, "It is {r.sky} in {0}, {r.temperature} degrees."),
        Outcome(lambda rng, v: f"{choice(SKY)(rng, v)}, {rng.randrange(-9, 40)} degrees", "The weather in {0}: {r}."),
        Outcome(lambda rng, v: f"{choice(SKY)(rng, v)}, {rng.randrange(-9, 40)} C", "The weather in {0}: {r}."),
    ),
    group="weather",
    noun="weather",
    result_key="weather",
    rare_names="weather_report|check_weather",
)
TIME = Kind(
    "time_in|current_time|get_time|clock|local_time",
    "The time in a city.|Current local time of a city.|What time it is somewhere.",
    (CITY,),
    (
        "What time is it in {0}(| now)?",
        "What is the (local|current|) time in {0}?",
        "(Tell|Show) me the time in {0}(.|)",
        f"{PREFIX}check the time in {{0}}(.|?)",
    ),
    ("How late is it in {0}?",),
    (Outcome(value("clock"), "It is {r} in {0}."),),
    group="time",
    noun="time",
    result_key="time",
    rare_names="time_at|what_time",
)
