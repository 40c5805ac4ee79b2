"""What does it take on the GPU at hand? Everything that runs kernels and reads a clock.

Single Linears and attentions (`shape_timing`), GEMMs and quantizers apart (`kernel_runs`), launches
(`host_timing`), and whole runs: one list (`end_to_end`) or several in turns (`interleaved`). What
may end the process runs in a child (`probing`).
"""
