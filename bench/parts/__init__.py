"""What is measured otherwise than by rounds of the same load: starts, memory, faults, and calls of an LM.

Each module has ``measure(rounds, seconds)``, which yields results.
"""
