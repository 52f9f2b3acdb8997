from collections.abc import AsyncIterator

import pytest

from tests.web.serving import Served, served


@pytest.fixture(scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Served]:
    """One service for a whole module, whose root LM answers with the length of the context. Tests are kept apart by
    tenants and keys."""
    async with served(tmp_path_factory.mktemp("served")) as running:
        yield running
