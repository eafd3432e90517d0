"""One machine: embedded Redis, and the supervisor of every part that `crossfade up` starts.

Start reading at `supervisor`. It must not know what the parts do, nor read configuration: it is given a plan.
"""
