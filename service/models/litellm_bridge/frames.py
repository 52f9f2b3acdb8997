"""How the service and its LiteLLM process talk: JSON objects, each after its length, over a socket pair.

to the process      {"id", "model", "messages", "max_tokens", "schema", "api_key", "api_base", "timeout_s"}
                    {"cancel": id}
from the process    {"ready": version} once, or {"broken": why} and the end
                    {"id", "document": a chat completion} or {"id", "error": {…}} (`failures`)
"""

import json
import struct
from typing import Any

ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else the import fetches the price map
    "LITELLM_MODE": "PRODUCTION",  # else the import reads a .env file from wherever it finds one
    "LITELLM_LOG": "CRITICAL",
    "LITELLM_RUST": "False",  # a client of its own, which its process could not own
    "DISABLE_AIOHTTP_TRANSPORT": "True",
    "DISABLE_AIOHTTP_TRUST_ENV": "True",
}
"""Of the process: must stand there before LiteLLM is imported."""

LIMIT_BYTES = 64 << 20
"""Of one frame; the largest prompt and the largest reply are far below it."""
_LENGTH = struct.Struct(">I")


class BrokenFrame(Exception):
    """What arrived is no frame: the connection cannot be used any more."""


def encode(frame: dict[str, Any]) -> bytes:
    """The bytes of one frame.

    Raises:
        BrokenFrame: it is larger than the other side takes.
    """
    body = json.dumps(frame, separators=(",", ":")).encode()
    if len(body) > LIMIT_BYTES:
        raise BrokenFrame(f"a frame of {len(body)} bytes; at most {LIMIT_BYTES} can be sent")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts bytes into frames; any chunking gives the same frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<Decoder {len(self._buffer)} bytes pending>"

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The frames that these bytes complete.

        Raises:
            BrokenFrame: a length beyond the limit, or a body that is no JSON object.
        """
        self._buffer += data
        frames: list[dict[str, Any]] = []
        at = 0
        while len(self._buffer) >= at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > LIMIT_BYTES:
                raise BrokenFrame(f"a frame of {length} bytes; at most {LIMIT_BYTES} are read")
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(_object(bytes(self._buffer[at + _LENGTH.size : end])))
            at = end
        del self._buffer[:at]
        return frames


def _object(body: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BrokenFrame("a frame that is not JSON") from exc
    if not isinstance(frame, dict):
        raise BrokenFrame("a frame that is not a JSON object")
    return frame
