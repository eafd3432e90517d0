"""Shared state: the policy store in Redis, its feed, its copy on disk, the counters. The only part that knows Redis."""
