"""What every other room uses: the names of Linears and formats, patterns, JSON files, the words of
messages, and devices.

This room imports `errors` only, and importing it loads no torch.
"""
