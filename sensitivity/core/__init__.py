"""What every other room speaks of: names of Linears and formats, patterns, files, words and
devices.

This room imports `errors` only, and loading it imports no torch.
"""
