from __future__ import annotations

from hypothesis import settings

# Machines are slow and shared: a property may take its time, and is never judged by it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
