"""Mirrored reads: copied to the other side behind the client's answer, compared elsewhere, kept as evidence.

`mirror` is where to begin. A read's way: `recording` keeps the answer that the client gets; `copier` sends the copy
when there is room; `comparing` hands both answers to a process of its own; `judging` says what the verdict is worth,
and reads again what differs before it counts.
"""
