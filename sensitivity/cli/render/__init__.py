"""Rendering only:

`tables` and `progress` turn records into text for a terminal; nothing here computes a result.
"""
