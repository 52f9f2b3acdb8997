"""The examples of docs/contexts-and-sessions.md, run in order as a reader would."""

import pytest

from tests.web.documented import DOCS, reader, try_examples
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = DOCS / "contexts-and-sessions.md"


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block runs after the one before it, and what it asserts is so."""
    with reader(it, await it.secret()) as client:
        await try_examples(PAGE, least=8, names={"client": client})
