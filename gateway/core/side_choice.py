"""The sticky, monotonic split of keys between the sides.

`h = u64_be(sha256(utf8(salt + ":" + key))[:8])`, new when `h < (ppm << 64) // 1_000_000`. Raising the share only moves
keys from old to new; lowering it moves back exactly the last ones. Vectors for other languages:
tests/vectors/side_choice.json.
"""

from __future__ import annotations

from hashlib import sha256

from gateway.core.model import PPM_ALL, Ppm

_HASH_BITS = 64


def key_hash(salt: str, key: str) -> int:
    """The key's place in [0, 2**64)."""
    return int.from_bytes(sha256(f"{salt}:{key}".encode()).digest()[:8], "big")


def share_limit(share: Ppm) -> int:
    """The first hash that stays on old: 0 for nobody, 2**64 for everybody."""
    return (share << _HASH_BITS) // PPM_ALL


def bucket_ppm(key_hash_value: int) -> Ppm:
    """The share above which a key with this hash goes to new."""
    return Ppm((key_hash_value * PPM_ALL) >> _HASH_BITS)
