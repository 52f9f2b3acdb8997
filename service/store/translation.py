"""Translation: what the Redis client and the server complain about, as sentences of ours that say what to do."""

from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.store.errors import StoreFailed, TenantErased, WritesRefused


class ScriptUnknown(StoreFailed):
    """The server does not know the digest (it restarted): send the script and try again."""


def place_of(url: str) -> str:
    """The server at a URL, without the credentials in it."""
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return f"the server at {shown} (RLM_REDIS_URL)"


def translated(error: RedisError | OSError, place: str, *, last_words: str = "") -> StoreFailed:
    """What a failed command means, and what to do. `last_words` are those of a server that had to be started again."""
    match error:
        case NoScriptError():
            return ScriptUnknown("the server does not know a script")
        case AuthenticationError() | AuthorizationError():
            message = "the server refused the credentials in RLM_REDIS_URL"
        case BusyLoadingError():
            message = "the server is still loading its data; try again shortly"
        case OutOfMemoryError():
            return WritesRefused(
                "the store failed: the server is out of memory; raise its maxmemory, then keep runs for a shorter time "
                "(RLM_KEEP_RUNS_DAYS)"
            )
        case ReadOnlyError():
            return WritesRefused(
                "the store failed: the server is a read-only replica; point RLM_REDIS_URL at the primary"
            )
        case RedisTimeoutError():
            message = f"{place} did not answer in time; check that it is not overloaded"
        case RedisConnectionError() | OSError() if last_words:
            message = f"its server ended and was started again; it had said: {last_words}"
        case RedisConnectionError() | OSError():
            message = f"{place} cannot be reached; check that it runs"
        case _ if str(error).startswith("ERASED"):
            return TenantErased("the tenant is erased: nothing can be kept for it any more")
        case _ if str(error).startswith("MISCONF"):
            return WritesRefused("the store failed: the server cannot write to its disk; check free space there")
        case _:
            # A server's error text names commands and keys, never values.
            message = f"the server refused a command: {str(error)[:200]}"
    return StoreFailed(f"the store failed: {message}")
