"""Drills as control runs them: the order of steps, the load, the report.

`run` is one drill from its preparation to its report; `desk` holds the one that runs and those that ended; `load` sends
requests of its own through the data port.
"""
