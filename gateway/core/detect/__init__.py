"""Detectors: is new worse than it may be? Pure: counts and a clock in, a verdict out.

`cusum` is the detector; `latency` makes "too slow" a count like the others; `floors` are the hard limits that need no
statistics; `guard` puts them together for one operation, or for all.
"""
