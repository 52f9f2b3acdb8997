"""What a new or changed key may be, given who asks for it. Pure.

A key that makes keys gains nothing by it: they can do no more than it can, count against its limits as well as their
own, and end with it.
"""

import hmac
from dataclasses import dataclass, field, replace

from service.errors import BadRequest, NotFound
from service.ids import KeyId, TenantId, new_id
from service.tenants.errors import NotPermitted
from service.tenants.values import (
    MAX_ANCESTORS,
    NO_LIMITS,
    ApiKey,
    Author,
    Caller,
    CallerLimits,
    Operator,
    Scope,
    allows_model,
    check_limits,
    check_models,
    check_name,
)

LONGEST_LIFE_S = 3650 * 86_400.0
"""Of a key that expires: more is a slip, and such a key would outlive whoever gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What a new key shall be able to do."""

    name: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None = None
    """None: what its maker may name, and for the operator all."""
    limits: CallerLimits = NO_LIMITS
    """What is left out is inherited from its maker."""
    expires_at: float | None = None
    """None: with its maker, and for the operator never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key as it is kept: with what recognises its secret, and the secret before, which works a while longer."""

    key: ApiKey
    mac: str = field(repr=False)
    previous_mac: str = field(default="", repr=False)
    previous_until: float = 0.0

    def is_opened_by(self, mac: str, now: float) -> bool:
        """Compares with both, in constant time."""
        is_current = hmac.compare_digest(mac, self.mac)
        is_previous = hmac.compare_digest(mac, self.previous_mac)
        return is_current or (is_previous and now < self.previous_until)

    def rotated(self, mac: str, now: float, overlap_s: float) -> "StoredKey":
        """With another secret.

        Raises:
            BadRequest: the key has ended.
        """
        if not self.key.is_live(now):
            raise BadRequest(f"{self.key.id} has expired or was revoked: make a new key")
        return StoredKey(
            key=replace(self.key, rotated_at=now), mac=mac, previous_mac=self.mac, previous_until=now + overlap_s
        )


def planned_key(tenant_id: TenantId, request: KeyRequest, by: Author, now: float) -> ApiKey:
    """The key that a request makes, inside of what its author has."""
    if not request.scopes:
        raise BadRequest(f"a key needs at least one scope: {', '.join(Scope)}")
    if request.expires_at is not None and request.expires_at <= now:
        raise BadRequest(
            "the key would have expired already: its end is told in Unix seconds", data={"param": "expires_at"}
        )
    if request.expires_at is not None and request.expires_at > now + LONGEST_LIFE_S:
        raise BadRequest(
            "a key expires within ten years (3650 days), or never where no time is given: its end is told in Unix "
            "seconds",
            data={"param": "expires_at"},
        )
    key = ApiKey(
        id=KeyId(new_id("key")),
        tenant_id=tenant_id,
        name=check_name(request.name),
        scopes=request.scopes,
        models=check_models(request.models),
        limits=check_limits(request.limits),
        created_at=now,
        expires_at=request.expires_at,
    )
    if isinstance(by, Operator) or by.is_operator:
        return key
    return _inside(key, by)


def _inside(key: ApiKey, maker: Caller) -> ApiKey:
    maker.require(Scope.KEYS)
    own = maker.key
    if key.tenant_id != own.tenant_id:
        raise NotFound(f"there is no tenant {key.tenant_id}")
    if extra := key.scopes - own.scopes:
        raise NotPermitted(f"a key can hand out its own scopes only, and lacks {', '.join(sorted(extra))}")
    if len(own.ancestors) >= MAX_ANCESTORS:
        raise NotPermitted(f"keys make keys {MAX_ANCESTORS} levels deep at most: use one further up")
    models = own.models if key.models is None else key.models
    if not all(allows_model(own.models, name) for name in models or ()):
        raise NotPermitted("a key can allow models of its own allow-list only")
    expires_at = own.expires_at if key.expires_at is None else key.expires_at
    if own.expires_at is not None and expires_at is not None and expires_at > own.expires_at:
        raise NotPermitted("a key cannot make one that outlives it")
    return replace(
        key,
        models=models,
        expires_at=expires_at,
        limits=key.limits.inside(own.limits),
        ancestors=(own.id, *own.ancestors),
    )


def changed_key(key: ApiKey, *, name: str | None, limits: CallerLimits | None, by: Author) -> ApiKey:
    """The key with what is not None replaced.

    Raises:
        NotPermitted: it is the author's own, or a limit would be wider than the author's.
        BadRequest: the name or a limit cannot be used.
    """
    if not _is_operator(by) and isinstance(by, Caller):
        if key.id == by.key.id:
            raise NotPermitted("a key cannot change itself: use the one that made it")
        limits = None if limits is None else limits.inside(by.key.limits)
    return replace(
        key,
        name=key.name if name is None else check_name(name),
        limits=key.limits if limits is None else check_limits(limits),
    )


def _is_operator(by: Author) -> bool:
    return isinstance(by, Operator) or by.is_operator


def may_see(by: Author, key: ApiKey) -> bool:
    """Itself and what it made; the operator all."""
    if isinstance(by, Operator) or by.is_operator:
        return True
    return key.id == by.key.id or by.key.id in key.ancestors
