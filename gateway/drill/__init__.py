"""Drills on a worker: the fault between the edge and new, and what the worker saw of it.

`faulty` is new as it is while a fault is on; `following` begins and ends it as Redis says.
"""
