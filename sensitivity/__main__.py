"""`python -m sensitivity` is the command `sensitivity`."""

from sensitivity.cli import main

if __name__ == "__main__":  # not in the processes that `device measure` starts
    main()
