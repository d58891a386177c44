"""`python -m flowserve`."""

from .cli import main

main()
