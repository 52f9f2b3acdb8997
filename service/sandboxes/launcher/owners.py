"""Who a sandbox belongs to. Pure.

One client uid may run several owners: the replicas of a service, a command beside them, and whatever an attacker made
of one. Each makes up a key and keeps it in memory; the launcher keeps its digest, in a label too, so that a launcher
that is started anew knows whose a container is. Docker shows labels to whoever may list, so the key is not in one.
"""

import hashlib
import hmac


def owner_of(owner_key: str) -> str:
    """What the launcher knows an owner by: the digest of its key."""
    return hashlib.sha256(f"rlm-owner:{owner_key}".encode()).hexdigest()


def is_same_owner(one: str, other: str) -> bool:
    """In a time that tells nothing. Nobody is the owner of what has no owner."""
    return bool(one) and hmac.compare_digest(one.encode(), other.encode())
