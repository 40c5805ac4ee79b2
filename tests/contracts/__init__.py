"""Test suites that are written once: for every implementation of a base, and for every record."""
