"""What a caller is told whose money does not cover what he asks for."""

import pytest

from service.ledger.values import Account, Level, Period, Refusal, Unit
from service.money import NANO_PER_USD
from service.runs.calls.errors import budget_error

KEY_DAY = Account(level=Level.KEY, owner="key_1", period=Period.DAY)


def refused(*, asked: int, unit: Unit = Unit.NANO_USD) -> str:
    usd = NANO_PER_USD if unit is Unit.NANO_USD else 1
    return str(
        budget_error(
            Refusal(
                account=KEY_DAY, unit=unit, asked=asked * usd, limit=5 * usd, spent=4 * usd, held=0, resets_at=86_400.0
            )
        )
    )


def test_a_refusal_names_the_amounts_and_what_helps() -> None:
    """In dollars, with the limit to make smaller; in the account's unit where it does not count money."""
    told = refused(asked=3)
    assert "is $5.00, $4.00 of it spent, and this asks for $3.00" in told
    assert "limits.cost_usd" in told
    assert "is 5 tokens, 4 tokens of it spent, and this asks for 3 tokens" in refused(asked=3, unit=Unit.TOKENS)


@pytest.mark.parametrize(("asked", "helps"), [(3, True), (5, True), (6, False)])
def test_waiting_is_advised_only_where_it_helps(asked: int, helps: bool) -> None:
    """What is more than the whole limit does not fit on the next day either."""
    assert ("wait" in refused(asked=asked)) is helps
