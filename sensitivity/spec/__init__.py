"""Which model is studied, with which settings, and what may be skipped: the study TOML as a frozen
record.
"""
