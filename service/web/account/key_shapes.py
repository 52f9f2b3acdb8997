"""What API keys look like on their way in and out. A secret goes out once, when it is made."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from service.ids import KeyId
from service.tenants.api_keys import LONGEST_OVERLAP_S, IssuedKey
from service.tenants.key_plans import KeyRequest
from service.tenants.values import MAX_MODEL_CHARS, MAX_MODELS, MAX_NAME_CHARS, NO_LIMITS, ApiKey, Scope
from service.web.account.limits import EXAMPLE_OF_LIMITS, GivenLimits, ShownLimits, shown_limits
from service.web.shapes import Shape, Shown, example

MAX_EXPIRY = 32_503_680_000.0
"""The year 3000, in Unix seconds."""

KeyName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]
ModelPattern = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_CHARS)]

EXAMPLE_OF_KEY: dict[str, Any] = {
    "key_id": "key_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "tenant_id": "ten_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "name": "nightly reports",
    "state": "active",
    "scopes": ["contexts", "runs"],
    "models": ["openai/gpt-5*"],
    "limits": EXAMPLE_OF_LIMITS,
    "created_at": 1763640000.0,
    "expires_at": 1771416000.0,
    "revoked_at": None,
    "rotated_at": None,
    "last_used_at": 1763643600.0,
    "made_by": None,
}


class GivenKey(Shape):
    """A key to be made. What is left out is inherited from the key that makes it."""

    model_config = example(
        {
            "name": "nightly reports",
            "scopes": ["runs", "contexts"],
            "models": ["openai/gpt-5*"],
            "limits": {"usd_per_day": "5.00"},
            "expires_at": 1771416000,
        }
    )

    name: KeyName
    scopes: Annotated[
        list[Annotated[Scope, Field(strict=False)]], Field(fail_fast=True, min_length=1, max_length=len(Scope))
    ]
    models: Annotated[list[ModelPattern], Field(fail_fast=True, max_length=MAX_MODELS)] | None = Field(
        default=None, description="The only models that it may name; a `*` at the end stands for anything."
    )
    limits: GivenLimits = Field(default_factory=GivenLimits)
    expires_at: Annotated[float, Field(strict=False, ge=0, le=MAX_EXPIRY)] | None = Field(
        default=None, description="Unix seconds, at most ten years ahead; never if left out, or as its maker does."
    )

    def request(self) -> KeyRequest:
        """Raises `BadRequest` for an amount that cannot be one."""
        return KeyRequest(
            name=self.name,
            scopes=frozenset(self.scopes),
            models=None if self.models is None else tuple(self.models),
            limits=self.limits.over(NO_LIMITS),
            expires_at=self.expires_at,
        )


class KeyChange(Shape):
    """What is to be different about a key. What is left out stays; a key cannot change itself."""

    model_config = example({"name": "weekly reports", "limits": {"usd_per_day": "10.00"}})

    name: KeyName | None = None
    limits: GivenLimits | None = None


class Rotation(Shape):
    """How a key gets a new secret."""

    model_config = example({"overlap_s": 86400})

    overlap_s: Annotated[float, Field(strict=False, ge=0, le=LONGEST_OVERLAP_S)] = Field(
        default=0.0, description="How long the old secret works on."
    )


AT_ONCE = Rotation()


class ShownKey(Shown):
    """An API key, without its secret."""

    model_config = example(EXAMPLE_OF_KEY)

    key_id: str
    tenant_id: str
    name: str
    state: Literal["active", "expired", "revoked"]
    scopes: list[Scope]
    models: list[str] | None = Field(description="The only models that it may name; null for all.")
    limits: ShownLimits
    created_at: float
    expires_at: float | None = Field(description="Unix seconds; null for never.")
    revoked_at: float | None
    rotated_at: float | None
    last_used_at: float | None = Field(description="To the minute.")
    made_by: str | None = Field(description="The key that made it; null for the operator's.")


class ShownIssuedKey(ShownKey):
    """An API key with its secret, which nobody can show again."""

    model_config = example(EXAMPLE_OF_KEY | {"secret": "rlm_0198c2f0a7b87cc2b1a8f2c3d4e5f607_5yQ…"})

    secret: str


class KeyPage(Shown):
    """API keys, the oldest first; those that have ended as well."""

    model_config = example({"keys": [EXAMPLE_OF_KEY], "next_cursor": None})

    keys: list[ShownKey]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


def shown_key(key: ApiKey, now: float) -> ShownKey:
    return ShownKey.model_validate(_facts(key, now))


def shown_issued_key(issued: IssuedKey, now: float) -> ShownIssuedKey:
    return ShownIssuedKey.model_validate(_facts(issued.key, now) | {"secret": issued.secret})


def _facts(key: ApiKey, now: float) -> dict[str, Any]:
    ended = "revoked" if key.revoked_at is not None else "expired"
    return {
        "key_id": key.id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "state": "active" if key.is_live(now) else ended,
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else list(key.models),
        "limits": shown_limits(key.limits),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rotated_at": key.rotated_at,
        "last_used_at": key.last_used_at,
        "made_by": key.ancestors[0] if key.ancestors else None,
    }


def key_page(keys: list[ApiKey], after: str | None, limit: int, now: float) -> tuple[list[ShownKey], str | None]:
    """The keys behind an id, and the last id of the page when more follow."""
    places = {key.id: place for place, key in enumerate(keys, 1)}
    # One that is forgotten by now is looked for where it would stand: ids sort by birth, to the millisecond.
    behind = keys if after is None else keys[places.get(KeyId(after), sum(key.id < after for key in keys)) :]
    page = [shown_key(key, now) for key in behind[:limit]]
    return page, page[-1].key_id if len(behind) > limit else None
