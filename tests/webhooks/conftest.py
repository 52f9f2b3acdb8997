from tests.store_fixture import store_directory, stored  # noqa: F401
