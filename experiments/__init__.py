"""Many runs: what one will cost, sweeps, and reports over seeds.

Reads and writes files and starts the scripts; never touches tensors.
"""
