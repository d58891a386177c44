"""DeepServe in one file: functions over warm pods, a hosted model, and an agent that calls functions.

deepserve run examples/quickstart.py        (or: python examples/quickstart.py)
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import deepserve

app = deepserve.App("quickstart")
llm = deepserve.Model("tiny-tools", source=str(Path(__file__).parent / "models" / "tiny-tools"))


# --- (a) a function, spread over pods ---------------------------------------------------------------


@dataclass
class FileFacts:
    path: str
    lines: int
    functions: int
    classes: int
    longest: tuple[int, str]
    names: Counter[str]


Def = ast.FunctionDef | ast.AsyncFunctionDef


def num_lines(function: Def) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


@app.function(max_pods=2)
def survey(path: str) -> FileFacts:
    """Read one source file; runs in a pod."""
    source = Path(path).read_bytes()
    facts = FileFacts(path, source.count(b"\n"), functions=0, classes=0, longest=(0, ""), names=Counter())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            facts.names[node.id] += 1
        elif isinstance(node, Def):
            facts.functions += 1
            facts.longest = max(facts.longest, (num_lines(node), node.name))
        elif isinstance(node, ast.ClassDef):
            facts.classes += 1
    return facts


def standard_library() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "site-packages", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
    files = (path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts))
    return [str(path) for path in files]


# --- (c) tools: decorated functions that the model calls ------------------------------------------------


def functions_of(module: str) -> list[Def]:
    """Every function that the module defines, methods and nested ones included."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise ModuleNotFoundError(f"no Python source for module {module!r}")
    return [node for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())) if isinstance(node, Def)]


@app.function
def count_functions(module: str) -> int:
    """Count the functions that a Python module defines.

    Args:
        module: Name of the module.
    """
    return len(functions_of(module))


@app.function
def longest_function(module: str) -> dict[str, object]:
    """Find the longest function of a Python module.

    Args:
        module: Name of the module.
    """
    longest = max(functions_of(module), key=num_lines)
    return {"name": longest.name, "lines": num_lines(longest)}


@app.function
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return a * b


agent = deepserve.Agent("librarian", model=llm, tools=[count_functions, longest_function, multiply])

QUESTIONS = (
    "How many functions does json.decoder define?",
    "Which function is the longest in textwrap?",
    "What is 17 times 23?",
)


# --- the three parts, one after the other -------------------------------------------------------------


def survey_the_library() -> None:
    files = standard_library()
    facts = list(deepserve.progress(survey.map(files), total=len(files), description="survey"))
    longest = max(facts, key=lambda fact: fact.longest)
    names = sum((fact.names for fact in facts), Counter[str]())
    rows = (
        ("files", f"{len(facts):,}"),
        ("lines", f"{sum(fact.lines for fact in facts):,}"),
        ("functions", f"{sum(fact.functions for fact in facts):,}"),
        ("classes", f"{sum(fact.classes for fact in facts):,}"),
        ("longest function", f"{longest.longest[1]} ({longest.longest[0]} lines, {Path(longest.path).name})"),
        ("most used names", ", ".join(name for name, _ in names.most_common(5))),
    )
    for label, value in rows:
        print(f"  {label:<18}{value}")


def ask_the_model() -> None:
    print("  > What is DeepServe?\n  ", end="")
    for piece in llm.stream("What is DeepServe?", max_tokens=80):
        print(piece, end="", flush=True)
    print()


def ask_the_agent() -> None:
    for question in QUESTIONS:
        print(f"  > {question}")
        for event in agent.stream(question):
            match event:
                case deepserve.ToolCalled(name=name, arguments=arguments):
                    print(f"    calls {name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})")
                case deepserve.ToolReturned(name=name, result=result, ms=ms):
                    print(f"    {name} returned {result!r} in {ms:.0f} ms")
                case deepserve.AgentFinished(result=result):
                    print(f"    {result.output}")


def what_ran_where() -> None:
    """The last request of each function, by request, job, task and pod."""
    last = {record["label"]: record for record in deepserve.recent_requests()}
    print(f"  {'function':<32}{'request':<16}{'job':<8}{'task':<9}{'pod':<7}{'ms':>8}")
    for label, record in sorted(last.items()):
        print(
            f"  {label:<32}{record['request_id']:<16}{record['job_id']:<8}{record['task_id']:<9}"
            f"{record['pod_id']:<7}{record['total_ms']:>8.1f}"
        )


@app.local_entrypoint()
def main() -> None:
    print(f"(a) A function over the sources of Python {sys.version.split()[0]}'s standard library")
    survey_the_library()
    print("\n(b) A hosted model, streaming")
    ask_the_model()
    print("\n(c) An agent whose model calls decorated functions")
    ask_the_agent()
    print("\nWhat ran where")
    what_ran_where()


if __name__ == "__main__":
    main()
