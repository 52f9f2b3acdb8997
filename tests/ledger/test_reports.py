"""Usage reports: grouped, paged, bounded, and the same money as in the accounts."""

from datetime import date

import pytest

from service.errors import BadRequest
from service.ids import KeyId
from service.ledger.redis_ledger import Ledger
from service.ledger.reports import MOST_DAYS, Dimension, Usage
from tests.ledger.charges import DAY_S, NOON, RUN, accounts_of, charge
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

TODAY, TOMORROW = date(2026, 11, 20), date(2026, 11, 21)
DAY, MODEL, KEY, SESSION = Dimension.DAY, Dimension.MODEL, Dimension.KEY, Dimension.SESSION


@pytest.fixture
async def ledger(stored: Stored) -> Ledger:
    """With four calls: two models, two keys (one call without), two sessions, two days."""
    clock = [NOON]
    ledger = Ledger(stored.store, stored.tenant, lambda: clock[0])
    booked = [
        ("a", 1, "small", KeyId("key_a"), "ses_1", 0),
        ("b", 2, "large", KeyId("key_a"), "ses_1", 0),
        ("c", 4, "small", KeyId("key_b"), "ses_2", DAY_S),
        ("d", 8, "small", None, "ses_2", DAY_S),
    ]
    for call, nano_usd, model, key, session, later in booked:
        clock[0] = NOON + later
        accounts = accounts_of(ledger, RUN, key=key, session=session)
        await ledger.reserve([charge(call, nano_usd, model=model)], accounts, expires_at=NOON + 9 * DAY_S)
        await ledger.settle(charge(call, nano_usd, model=model))
    return ledger


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ([], {(): 15}),
        ([DAY], {("2026-11-20",): 3, ("2026-11-21",): 12}),
        ([MODEL], {("large",): 2, ("small",): 13}),
        ([KEY], {("",): 8, ("key_a",): 3, ("key_b",): 4}),
        ([SESSION], {("ses_1",): 3, ("ses_2",): 12}),
        ([SESSION, MODEL], {("ses_1", "large"): 2, ("ses_1", "small"): 1, ("ses_2", "small"): 12}),
        ([KEY, DAY], {("", "2026-11-21"): 8, ("key_a", "2026-11-20"): 3, ("key_b", "2026-11-21"): 4}),
    ],
)
async def test_a_report_groups_by_what_was_asked(
    ledger: Ledger, group_by: list[Dimension], expected: dict[tuple[str, ...], int]
) -> None:
    """Lines stand in order of their group, whichever dimensions they have, and the total is that of all."""
    page = await ledger.reports.usage(group_by, first=TODAY, last=TOMORROW)
    assert {line.group: line.usage.nano_usd for line in page.lines} == expected
    assert [line.group for line in page.lines] == sorted(expected)
    assert page.total == Usage(
        calls=4, sub_calls=4, nano_usd=15, input_tokens=12, cached_input_tokens=4, output_tokens=8
    )


async def test_a_report_comes_in_pages(ledger: Ledger) -> None:
    """Going on behind the last group of a page gives every line once, and each page has the whole total."""
    seen: list[tuple[str, ...]] = []
    after: tuple[str, ...] | None = None
    while True:
        page = await ledger.reports.usage([KEY], first=TODAY, last=TOMORROW, after=after, limit=2)
        assert page.total.nano_usd == 15
        seen += [line.group for line in page.lines]
        after = page.next_after
        if after is None:
            break
    assert seen == [("",), ("key_a",), ("key_b",)]


async def test_a_report_may_be_about_one_key_and_some_days(ledger: Ledger) -> None:
    """Other keys and other days are left out, of the total too."""
    one = await ledger.reports.usage([MODEL], first=TODAY, last=TOMORROW, key="key_a")
    assert {line.group: line.usage.nano_usd for line in one.lines} == {("large",): 2, ("small",): 1}
    later = await ledger.reports.usage([], first=TOMORROW, last=TOMORROW)
    assert later.total.nano_usd == 12


async def test_a_report_is_bounded(ledger: Ledger) -> None:
    """A range that ends before it begins or is too long, and a dimension named twice, are refused."""
    for group_by, first, last in [
        ([DAY], TOMORROW, TODAY),
        ([DAY], date.fromordinal(TODAY.toordinal() - MOST_DAYS), TODAY),
        ([DAY, DAY], TODAY, TODAY),
    ]:
        with pytest.raises(BadRequest):
            await ledger.reports.usage(group_by, first=first, last=last)
