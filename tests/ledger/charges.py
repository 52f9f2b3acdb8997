"""Charges, accounts and times for tests of the ledger."""

from collections.abc import Set as AbstractSet

from service.ids import CallId, KeyId, RunId
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Charge, Entry, Level, Refusal

NOON = 1_795_176_000.0
"""2026-11-20 12:00 UTC."""
DAY_S = 86_400.0
RUN = RunId("run_1")
KEY = KeyId("key_1")
RUN_ACCOUNT = Account(level=Level.RUN, owner=RUN)
SESSION_ACCOUNT = Account(level=Level.SESSION, owner="ses_1")


def charge(
    call: str,
    nano_usd: int,
    *,
    run: RunId = RUN,
    model: str = "m",
    purpose: str = "sub_call",
    tokens: tuple[int, int, int] = (3, 1, 2),
    sub_calls: int = 1,
    flags: tuple[str, ...] = (),
) -> Charge:
    """A charge; `tokens` are input, cached input and output."""
    entry = Entry(
        call_id=CallId(call),
        run_id=run,
        model=model,
        purpose=purpose,
        at=NOON,
        nano_usd=nano_usd,
        input_tokens=tokens[0],
        cached_input_tokens=tokens[1],
        output_tokens=tokens[2],
        flags=flags,
    )
    return Charge(entry=entry, sub_calls=sub_calls)


def accounts_of(ledger: Ledger, *runs: RunId, key: KeyId | None = KEY, session: str = "ses_1") -> tuple[Account, ...]:
    """All that a call of this lineage is charged to."""
    return (
        *(Account(level=Level.RUN, owner=run) for run in runs),
        Account(level=Level.SESSION, owner=session),
        *ledger.outer_accounts(() if key is None else (key,)),
    )


async def none_of(run_ids: AbstractSet[RunId]) -> AbstractSet[RunId]:
    """All of them have ended."""
    return set()


async def hold(ledger: Ledger, *charges: Charge, accounts: tuple[Account, ...] | None = None) -> Refusal | None:
    """Reserve for an hour."""
    reserved = await ledger.reserve(charges, accounts or accounts_of(ledger, RUN), expires_at=NOON + 3600)
    return reserved.refusal
