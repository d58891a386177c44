"""`python -m examples.models.train_tiny_tools train|export|evaluate`, from the repository's root."""

from __future__ import annotations

import argparse

from . import evaluate, export, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="train_tiny_tools", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for module in (train, export, evaluate):
        command = commands.add_parser(module.__name__.rsplit(".", 1)[-1], description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    arguments = parser.parse_args()
    arguments.main(arguments)


if __name__ == "__main__":
    main()
