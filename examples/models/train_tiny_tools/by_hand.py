"""Questions written by a person, none of them made by the generator: does the first round ask for the right call?"""

from __future__ import annotations

import json
from typing import Any

from .template import Message, prompt

Question = tuple[str, str, dict[str, Any]]  # what is asked, the tool, its arguments


def _schema(name: str, description: str, /, **parameters: tuple[str, str]) -> dict[str, Any]:
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    body = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": body}}


_MODULE = ("string", "Name of the module.")
_NUMBERS = {"a": ("integer", "First number."), "b": ("integer", "Second number.")}
LIBRARY = [
    _schema("count_functions", "Count the functions that a Python module defines.", module=_MODULE),
    _schema("longest_function", "Find the longest function of a Python module.", module=_MODULE),
    _schema("count_lines", "Count the lines of a Python module.", module=_MODULE),
    _schema("multiply", "Multiply two whole numbers.", **_NUMBERS),
    _schema("add", "Add two whole numbers.", **_NUMBERS),
]
OFFICE = [
    _schema("get_weather", "Get the weather for a city.", city=("string", "Name of the city.")),
    _schema("send_message", "Send a message to a person.", to=("string", "The person."), text=("string", "The text.")),
    _schema("find_email", "Find the email address of a person.", name=("string", "Name of the person.")),
    _schema("order_status", "Tell the status of an order.", order=("string", "Number of the order.")),
]
GARAGE = [
    _schema("tire_pressure", "The tire pressure of a car.", car=("string", "Plate of the car.")),
    _schema("wash_car", "Wash a car.", car=("string", "Plate of the car.")),
    _schema("set_price", "Set the price of a car.", car=("string", "Plate of the car."), euros=("integer", "Price.")),
]

BY_HAND: list[tuple[list[dict[str, Any]], list[Question]]] = [
    (
        LIBRARY,
        [
            ("How many functions does json define?", "count_functions", {"module": "json"}),
            ("How many functions does json.decoder define?", "count_functions", {"module": "json.decoder"}),
            ("So, how many functions has argparse got?", "count_functions", {"module": "argparse"}),
            ("Number of functions in pathlib, please.", "count_functions", {"module": "pathlib"}),
            ("Which function is the longest in textwrap?", "longest_function", {"module": "textwrap"}),
            (
                "I am looking for the longest function of logging.handlers.",
                "longest_function",
                {"module": "logging.handlers"},
            ),
            ("What's the longest function inside tarfile?", "longest_function", {"module": "tarfile"}),
            ("How many lines does zipfile have?", "count_lines", {"module": "zipfile"}),
            ("How many lines long is the module inspect?", "count_lines", {"module": "inspect"}),
            ("What is 17 times 23?", "multiply", {"a": 17, "b": 23}),
            ("Could you work out 45 times 310 for me?", "multiply", {"a": 45, "b": 310}),
            ("I need the product of 9 and 1204.", "multiply", {"a": 9, "b": 1204}),
            ("What do I get when I add 58 and 77?", "add", {"a": 58, "b": 77}),
            ("How much is 1999 plus 26?", "add", {"a": 1999, "b": 26}),
        ],
    ),
    (
        OFFICE,
        [
            ("What is the weather in Lisbon?", "get_weather", {"city": "Lisbon"}),
            ("What's the weather like in Oslo today?", "get_weather", {"city": "Oslo"}),
            ("I'm flying to Vienna, how is the weather there?", "get_weather", {"city": "Vienna"}),
            ("Please tell Maria to call the office.", "send_message", {"to": "Maria", "text": "call the office"}),
            ("What is Ada's email address?", "find_email", {"name": "Ada"}),
            ("I need the email of Victor.", "find_email", {"name": "Victor"}),
            ("Where is my order B2204?", "order_status", {"order": "B2204"}),
            ("Has order K-781 arrived?", "order_status", {"order": "K-781"}),
        ],
    ),
    (
        GARAGE,
        [
            ("What is the tire pressure of car B-1234?", "tire_pressure", {"car": "B-1234"}),
            ("Tell me the tire pressure of X77310.", "tire_pressure", {"car": "X77310"}),
            ("Wash the car H-480.", "wash_car", {"car": "H-480"}),
            ("Could you wash the car K9912?", "wash_car", {"car": "K9912"}),
            ("Set the price of car M-310 to 4500 euros.", "set_price", {"car": "M-310", "euros": 4500}),
            ("Please set the price of T8001 to 999.", "set_price", {"car": "T8001", "euros": 999}),
        ],
    ),
]


def prompts() -> tuple[list[str], list[str]]:
    """What the model is given, and the one call that is right for each."""
    given, wanted = [], []
    for tools, questions in BY_HAND:
        for text, name, arguments in questions:
            messages: list[Message] = [{"role": "user", "content": text}]
            given.append(prompt(messages, tools))
            wanted.append(json.dumps({"name": name, "arguments": arguments}))
    return given, wanted
