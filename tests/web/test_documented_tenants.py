"""The examples of docs/tenants.md, run in order as a reader would."""

from contextlib import ExitStack

import httpx
import pytest

from service.tenants.values import Scope
from tests.web.documented import DOCS, reader, try_examples
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = DOCS / "tenants.md"


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block runs after the one before it, and what it asserts is so."""
    with ExitStack() as clients:

        def client_with(secret: str) -> httpx.Client:
            return clients.enter_context(reader(it, secret))

        operator = client_with(await it.secret(Scope.ADMIN))
        await try_examples(PAGE, least=5, names={"operator": operator, "tenants_client": client_with})
