"""An E2B-compatible server for trying things out and for tests: both planes on one port of this machine.

It runs commands on this machine as the user that started it, without isolation: for loopback and trusted callers only.
What it answers follows what the unmodified SDK 2.63 asks for and accepts.
"""
