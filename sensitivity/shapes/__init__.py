"""M, K and N of every Linear of a run, and what follows from shapes and names alone.

A Linear's shape goes one way: `recorder` sees it, `table` holds it, `latency` prices it.
"""
