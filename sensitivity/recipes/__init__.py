"""The recipe file: its records, reading and writing it, applying it to a model, and comparing two."""
