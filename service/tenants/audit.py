"""The audit log: who changed or was refused what, and when. One chain for each tenant, and one for the operator.

Every record carries the digest of the one before it, and digests are made with a secret of the installation that is not
in the store. So whoever can only write to the store cannot change, leave out or insert a record without `verify`
telling. What it cannot tell is that the newest records were cut off together with the head; who must know that keeps a
copy of the last digest elsewhere. A chain keeps its newest `MOST_RECORDS`.

Nothing of what tenants ask or store is in it, and no secret. The decision is docs/decisions/0007.
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from service.errors import BadRequest
from service.ids import TenantId
from service.store.connection import Part, Store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.scripts import load_script
from service.tenants.errors import ChangedMeanwhile
from service.tenants.key_files import KeyFile
from service.tenants.records import KEYS
from service.tenants.values import Author, Operator

MOST_RECORDS = 100_000
MOST_DETAILS = 16
LONGEST_TEXT = 256
PAGE = 1000
MOST_TRIES = 50

_APPEND = load_script("service.tenants", "audit_append.lua", leaves_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is to be recorded."""

    action: str
    """Such as `key.created`: a noun of the glossary and a verb in the past."""
    target: str
    """The id of what it was done to."""
    by: str
    """A key's id, or `operator`."""
    request_id: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    """Names and figures, never payloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A deed as it stands in the chain."""

    number: int
    at: float
    deed: Deed
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a chain is whole."""

    records: int
    """That are kept and were looked at."""
    broken_at: int | None
    """The first number that does not follow from what is before it; None when the chain is whole."""
    last_digest: str
    """What to keep elsewhere, to notice later that the end was cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    number: int
    at: float
    deed: Deed


_BODY = TypeAdapter(_Body)
OPERATORS_CHAIN = KEYS.tenant
"""Where it stands what was done to tenants as a whole: it outlives them."""


def deed(action: str, target: str, by: Author, **details: str) -> Deed:
    """What an author has done."""
    return Deed(action=action, target=target, by=author_name(by), request_id=by.request_id, details=details)


def author_name(by: Author) -> str:
    """How an author stands in the log."""
    return "operator" if isinstance(by, Operator) else by.key.id


class AuditLog:
    """The chain of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(
        self,
        store: Store,
        secret: KeyFile,
        tenant: TenantId,
        now: Callable[[], float],
        *,
        most_records: int = MOST_RECORDS,
    ) -> None:
        self._store = store
        self._most_records = most_records
        self._secret = secret
        self._now = now
        keys = Keys(tenant)
        self._chain, self._head = keys("audit"), keys("audit", "head")

    async def record(self, deed: Deed) -> AuditRecord:
        """Append a deed. Called after it was done, or refused.

        Raises:
            BadRequest: it is too large for the log.
            ChangedMeanwhile: other replicas were faster each time.
        """
        _check(deed)
        return await self._append(deed)

    async def page(self, *, after: int = 0, limit: int = PAGE) -> list[AuditRecord]:
        """Records in order, those after a number.

        Raises:
            StoreFailed: one of them is none.
        """
        found = []
        for _, digest, text in await self._read(after, min(limit, PAGE)):
            try:
                body = _BODY.validate_json(text)
            except ValidationError as error:
                raise StoreFailed("an audit record has an unknown form: verify the log to see which") from error
            found.append(AuditRecord(number=body.number, at=body.at, deed=body.deed, digest=digest))
        return found

    async def verify(self) -> Verdict:
        """Look at everything that is kept, from the first record to the last."""
        head = await self._store.read("HMGET", self._head, "number", "digest", "anchor_number", "anchor_digest")
        assert isinstance(head, list)
        number, digest, anchor_number, before = (each.decode() if isinstance(each, bytes) else "" for each in head)
        last, at, records = int(number or 0), int(anchor_number or 0), 0
        while page := await self._read(at, PAGE):
            for number_there, digest_there, text in page:
                # The number is part of the text, so a record in another's place has another digest.
                if number_there != at + 1 or not hmac.compare_digest(digest_there, self._digest(before, text)):
                    return Verdict(records=records, broken_at=at + 1, last_digest=before)
                at, before, records = number_there, digest_there, records + 1
                if at == last and before != digest:
                    return Verdict(records=records, broken_at=at, last_digest=before)
        return Verdict(records=records, broken_at=None if at >= last else at + 1, last_digest=before)

    async def _append(self, deed: Deed) -> AuditRecord:
        for _ in range(MOST_TRIES):
            head = await self._store.read("HMGET", self._head, "number", "digest")
            assert isinstance(head, list)
            number, before = (each.decode() if isinstance(each, bytes) else "" for each in head)
            body = _Body(number=int(number or 0) + 1, at=self._now(), deed=deed)
            text = _BODY.dump_json(body)
            digest = self._digest(before, text)
            arguments: list[Part] = [str(body.number), before, digest, text, self._most_records]
            reply = await self._store.run(_APPEND, [self._chain, self._head], arguments, is_idempotent=True)
            if reply == b"done":
                return AuditRecord(number=body.number, at=body.at, deed=deed, digest=digest)
        raise ChangedMeanwhile("other replicas kept appending to the same audit log: try again")

    async def _read(self, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Number, digest and text of records."""
        reply = await self._store.read("XRANGE", self._chain, f"({after}-0", "+", "COUNT", limit)
        assert isinstance(reply, list)
        found = []
        for item in reply:
            match item:
                case [bytes(entry_id), [b"d", bytes(digest), b"r", bytes(text)]]:
                    found.append((int(entry_id.partition(b"-")[0]), digest.decode(), text))
                case _:
                    raise StoreFailed("an audit record has an unknown form; was it written by a newer version?")
        return found

    def _digest(self, before: str, text: bytes) -> str:
        return self._secret.mac("audit", before.encode() + b"\n" + text).hex()


def _check(deed: Deed) -> None:
    if len(deed.details) > MOST_DETAILS:
        raise BadRequest(f"an audit record has at most {MOST_DETAILS} details, found {len(deed.details)}")
    for text in (deed.action, deed.by, deed.target, deed.request_id or "", *deed.details, *deed.details.values()):
        if len(text) > LONGEST_TEXT:
            raise BadRequest(f"a text in an audit record has at most {LONGEST_TEXT} characters, found {len(text)}")


class AuditLogs:
    """The chains of all tenants."""

    def __init__(self, store: Store, secret: KeyFile, now: Callable[[], float]) -> None:
        self._store = store
        self._secret = secret
        self._now = now

    def of(self, tenant: TenantId) -> AuditLog:
        """The chain of one tenant, or `OPERATORS_CHAIN`."""
        return AuditLog(self._store, self._secret, tenant, self._now)
