import pytest

from tests.store_fixture import store_directory, stored  # noqa: F401


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
