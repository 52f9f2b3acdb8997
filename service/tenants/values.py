"""What a tenant, an API key and a caller are, and the limits that hold for them. Pure."""

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Literal

from service.errors import BadRequest
from service.ids import KeyId, TenantId
from service.money import MAX_NANO_USD, NanoUSD, format_usd
from service.tenants.errors import ModelNotAllowed, NotPermitted

MAX_NAME_CHARS = 100
MAX_MODELS = 100
MAX_MODEL_CHARS = 200
MAX_ANCESTORS = 4
"""How deep keys may make keys. Each level is looked at whenever a key below it is used."""
_NANO = "nano_"
MAX_PER_MINUTE = 1_000_000_000
"""Of requests or tokens. With it a rate's arithmetic stays below 2^53 (rates.lua)."""


class Scope(StrEnum):
    """What a key may be used for."""

    RUNS = "runs"
    """Ask questions: runs, their events and answers, models."""
    CONTEXTS = "contexts"
    """Store, read and delete contexts."""
    SESSIONS = "sessions"
    """Open sessions and execute cells in them."""
    USAGE = "usage"
    """Read what was spent."""
    KEYS = "keys"
    """Make, rotate and revoke keys that can do no more than this one."""
    WEBHOOKS = "webhooks"
    """Be told by HTTP when runs have ended."""
    ADMIN = "admin"
    """The operator's: every tenant, every key, every limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What a tenant, or one key, may have at most; None is no limit of its own. All that apply hold at once."""

    parallel_runs: int | None = None
    """Runs that are being worked on."""
    queued_runs: int | None = None
    """Runs that wait for their turn."""
    sandboxes: int | None = None
    """Sandboxes in use, child runs' and sessions' included."""
    model_calls: int | None = None
    """Model calls in flight."""
    requests_per_minute: int | None = None
    """HTTP requests."""
    tokens_per_minute: int | None = None
    """Tokens to and from models."""
    open_sessions: int | None = None
    open_contexts: int | None = None
    """Stored contexts that were not deleted."""
    storage_bytes: int | None = None
    """Of contexts, answers and files; what a tenant stored twice counts once."""
    nano_usd_per_day: int | None = None
    """A day and a month begin at midnight UTC."""
    nano_usd_per_month: int | None = None

    def inside(self, outer: "CallerLimits") -> "CallerLimits":
        """These limits for somebody who stands under `outer`: what is left out is inherited.

        Raises:
            NotPermitted: one of them is wider than `outer`'s.
        """
        found: dict[str, int | None] = {}
        for name in LIMIT_NAMES:
            own, bound = limit(self, name), limit(outer, name)
            if own is not None and bound is not None and own > bound:
                shown, *figures = _in_words(name, own, bound)
                raise NotPermitted(
                    f"the limit {shown} would be {figures[0]}, and the key that sets it has {figures[1]} itself"
                )
            found[name] = bound if own is None else own
        return replace(self, **found)


def _in_words(name: str, *amounts: int) -> list[str]:
    """A limit's name and its amounts as people write them: money is decimal USD."""
    if not name.startswith(_NANO):
        return [name, *(str(amount) for amount in amounts)]
    return [name.removeprefix(_NANO), *(format_usd(NanoUSD(amount)).removeprefix("$") for amount in amounts)]


LIMIT_NAMES = tuple(each.name for each in fields(CallerLimits))
LARGEST = {"requests_per_minute": MAX_PER_MINUTE, "tokens_per_minute": MAX_PER_MINUTE}
"""Of the limits that may not go up to 2^53-1."""
NO_LIMITS = CallerLimits()


def limit(limits: CallerLimits, name: str) -> int | None:
    """A limit by its name, which is one of `LIMIT_NAMES`."""
    value: int | None = getattr(limits, name)
    return value


def check_limits(limits: CallerLimits) -> CallerLimits:
    """The limits, if they can be used.

    Raises:
        BadRequest: one is negative or too large.
    """
    for name in LIMIT_NAMES:
        value, most = limit(limits, name), LARGEST.get(name, MAX_NANO_USD)
        if value is not None and not 0 <= value <= most:
            raise BadRequest(f"the limit {name} must be between 0 and {most}, found {value}")
    return limits


def limits_in_words(limits: CallerLimits) -> dict[str, str]:
    """Those that are set, for the audit log."""
    found = {name: limit(limits, name) for name in LIMIT_NAMES}
    return {name: str(value) for name, value in found.items() if value is not None}


def check_name(name: str) -> str:
    """A name that people give to a tenant or a key, without the blanks around it.

    Raises:
        BadRequest: it is empty, too long or cannot be printed.
    """
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise BadRequest(f"a name must have 1 to {MAX_NAME_CHARS} printable characters, found {len(name)}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who pays. Everything that is stored belongs to exactly one."""

    id: TenantId
    name: str
    created_at: float
    suspended_at: float | None = None
    erasing_since: float | None = None
    """Set when its erasure began: from then on there is no way back."""
    limits: CallerLimits = NO_LIMITS

    @property
    def may_act(self) -> bool:
        return self.suspended_at is None and self.erasing_since is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Who calls. The secret is not in it: nobody can show it again."""

    id: KeyId
    tenant_id: TenantId
    name: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None = None
    """The only models it may name, a trailing `*` standing for anything; None for all."""
    limits: CallerLimits = NO_LIMITS
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    rotated_at: float | None = None
    last_used_at: float | None = None
    """To the minute."""
    ancestors: tuple[KeyId, ...] = ()
    """The key that made it, the key that made that one, and so on. It counts against their limits and ends with the
    first of them, so that a key gains nothing by making keys."""

    def is_live(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def allows_model(models: tuple[str, ...] | None, name: str) -> bool:
    """Whether an allow-list has room for a name, or for everything that a pattern stands for."""
    return models is None or any(_covers(pattern, name) for pattern in models)


def _covers(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name


def check_models(models: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """An allow-list, if it can be used.

    Raises:
        BadRequest: too many or too long names, or a `*` elsewhere than at the end.
    """
    if models is None:
        return None
    if len(models) > MAX_MODELS:
        raise BadRequest(f"an allow-list holds at most {MAX_MODELS} models, found {len(models)}")
    for name in models:
        if not 1 <= len(name) <= MAX_MODEL_CHARS or not name.isprintable() or "*" in name[:-1]:
            raise BadRequest(f"expected a model's name, or its beginning and a *, found {name[:MAX_MODEL_CHARS]!r}")
    return tuple(dict.fromkeys(models))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Somebody with limits: everything that counts, counts at every level of its caller."""

    kind: Literal["tenant", "key"]
    owner: str
    limits: CallerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request: a key, its tenant, and the keys that it descends from."""

    tenant: Tenant
    key: ApiKey
    ancestors: tuple[ApiKey, ...] = field(default=(), repr=False)
    request_id: str | None = None
    """The request that it makes, where there is one: what it changes is logged with it."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The tenant first, then the key, then those that it descends from."""
        keys = (self.key, *self.ancestors)
        return (
            Level(kind="tenant", owner=self.tenant.id, limits=self.tenant.limits),
            *(Level(kind="key", owner=key.id, limits=key.limits) for key in keys),
        )

    @property
    def is_operator(self) -> bool:
        return Scope.ADMIN in self.key.scopes

    def require(self, scope: Scope) -> None:
        """Refuse what the key has no scope for; `admin` stands for all.

        Raises:
            NotPermitted: names the scope.
        """
        if scope not in self.key.scopes and not self.is_operator:
            raise NotPermitted(f"this needs an API key with the scope {scope}", data={"scope": scope.value})

    def require_whole_tenant(self) -> None:
        """Refuse a key that another key made: what concerns the whole tenant is not handed down.

        Raises:
            NotPermitted: the key has an ancestor.
        """
        if self.key.ancestors:
            raise NotPermitted(
                "this concerns the whole tenant, and the API key was made by another key of it: use one that the "
                "operator made"
            )

    def require_model(self, name: str) -> None:
        """Refuse a model that is not on the allow-list of the key or of one that it descends from.

        Raises:
            ModelNotAllowed: names the model.
        """
        if not all(allows_model(key.models, name) for key in (self.key, *self.ancestors)):
            raise ModelNotAllowed(
                f"the API key does not allow the model {name[:MAX_MODEL_CHARS]!r}: use one on its list, or another key",
                data={"model": name[:MAX_MODEL_CHARS]},
            )


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever has the machine: the command line, and the service itself. May do everything."""

    request_id: None = None


OPERATOR = Operator()

Author = Caller | Operator
"""Who asks for a change. Said at every call, because forgetting it must not make an operator of anybody."""
