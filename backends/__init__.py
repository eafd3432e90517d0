"""The two bundled services: the first migration that Crossfade carries."""
