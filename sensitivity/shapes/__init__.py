"""M, K and N of every Linear of a run, and what follows from the shapes and names alone."""
