"""Notifications: tells operators what happened, behind everything else.

`outbox` follows the audit for each target; `delivery` is how a target is told.
"""
