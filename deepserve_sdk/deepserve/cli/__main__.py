"""`python -m deepserve.cli`."""

from deepserve.cli import main

main()
