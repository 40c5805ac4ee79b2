"""`python -m sensitivity.cli` is `sensitivity`."""

from sensitivity.cli import main

if __name__ == "__main__":  # not in the processes that `device measure` starts
    main()
