"""The decisions, pure: no await, clock, randomness, logging or I/O. Time and entropy are arguments.

May import only the pure part of the standard library and itself.
"""
