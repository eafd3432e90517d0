"""Crossfade: a migration gateway. One URL in front of an old and a new service."""

__version__ = "0.1.0"
