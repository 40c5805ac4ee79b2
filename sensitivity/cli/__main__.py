"""`python -m sensitivity.cli` is `sensitivity`."""

from sensitivity.cli import main

main()
