"""`python -m sensitivity` is the command `sensitivity`."""

from sensitivity.cli import main

main()
