"""The process that LiteLLM lives in: `python -m service.models.litellm_bridge.worker FD`.

LiteLLM takes seconds to import, 200 MB and milliseconds of processor time a call; here none of that stalls the
service's event loop, and what it leaks, logs or crashes ends with this process. Nothing of the service is imported but
the frames and the transport. The process ends when the service closes its end of the socket pair, for whatever reason.

Only what is safe for a budget is asked of LiteLLM: no retries of its own, no callbacks, no cache, and never a call that
drops the output limit, on which every reservation rests. What was sent and what came back is not asked of LiteLLM but
of the transport (`transport`).
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
from typing import Any

import anyio
import anyio.abc

from service.models.litellm_bridge.frames import BrokenFrame, Decoder, encode
from service.models.litellm_bridge.transport import Call, own_transports, recorded

MEMORY_BYTES = 4 << 30
"""A provider that sends without end runs into this here and not in the service."""
READ_BYTES = 1 << 18
HTTP_TIMEOUT_S = 3600.0
"""The same for all calls, since clients are cached by it; a call's own deadline is kept below."""
MESSAGE_CHARS = 2000


class _Worker:
    def __init__(self, litellm: Any, writer: asyncio.StreamWriter) -> None:
        self._litellm = litellm
        self._writer = writer
        self._scopes: dict[int, anyio.CancelScope] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        decoder = Decoder()
        async with anyio.create_task_group() as tasks:
            while data := await reader.read(READ_BYTES):
                for frame in decoder.feed(data):
                    if "cancel" in frame:
                        self._cancel(frame["cancel"])
                    else:
                        self._scopes[frame["id"]] = anyio.CancelScope()
                        tasks.start_soon(self._answer, frame)
            tasks.cancel_scope.cancel()

    def _cancel(self, call: int) -> None:
        if call in self._scopes:
            self._scopes[call].cancel()

    async def _answer(self, frame: dict[str, Any]) -> None:
        call = frame["id"]
        try:
            with self._scopes[call]:
                answer = await self._attempt(frame)
                try:
                    data = encode({"id": call, **answer})
                except BrokenFrame:
                    data = encode({"id": call, "error": {"kind": "ReplyTooLong"}})
                self._writer.write(data)
                await self._writer.drain()
        finally:
            del self._scopes[call]

    async def _attempt(self, frame: dict[str, Any]) -> dict[str, Any]:
        with recorded(frame["model"].partition("/")[0]) as call:
            try:
                with anyio.move_on_after(frame["timeout_s"]) as deadline:
                    document = _document(await self._complete(frame))
            # The boundary to LiteLLM: it raises its own classes, its clients' and, on a bad day, anything.
            except Exception as exc:  # noqa: BLE001
                return {"error": _error(_Deadline() if deadline.cancel_called else exc, call)}
            if deadline.cancelled_caught:
                return {"error": _error(_Deadline(), call)}
        if call.status is None or not 200 <= call.status < 300:  # whatever it made a reply of, no provider gave it
            return {"error": _error(ValueError("a reply without a request that succeeded"), call)}
        return {"document": document}

    async def _complete(self, frame: dict[str, Any]) -> Any:
        litellm = self._litellm
        model, provider, _, _ = litellm.get_llm_provider(model=frame["model"], api_base=frame["api_base"])
        supported = litellm.get_supported_openai_params(model=model, custom_llm_provider=provider)
        if supported is not None and not {"max_tokens", "max_completion_tokens"} & set(supported):
            raise _NoOutputLimit
        options: dict[str, Any] = {}
        if frame["schema"] is not None and (supported is None or "response_format" in supported):
            form = {"name": "reply", "schema": frame["schema"], "strict": False}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        return await litellm.acompletion(
            model=frame["model"],
            messages=frame["messages"],
            max_tokens=frame["max_tokens"],
            api_key=frame["api_key"],
            api_base=frame["api_base"],
            timeout=HTTP_TIMEOUT_S,
            max_retries=0,
            num_retries=0,
            caching=False,
            **{"no-log": True},
            **options,
        )


class _Deadline(Exception):
    """The call's own time is over."""


class _NoOutputLimit(Exception):
    """The provider takes no output limit."""


def _document(response: Any) -> dict[str, Any]:
    """What the service reads of a chat completion."""
    document = json.loads(response.model_dump_json())
    choices = [
        {
            "message": {name: (choice.get("message") or {}).get(name) for name in ("content", "refusal")},
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in document.get("choices") or []
    ]
    return {"choices": choices[:1], "usage": document.get("usage")}


def _error(exc: Exception, call: Call) -> dict[str, Any]:
    claimed = getattr(exc, "status_code", None)
    return {
        "kind": type(exc).__name__.lstrip("_"),
        "message": str(exc)[:MESSAGE_CHARS],
        "claimed": claimed if isinstance(claimed, int) else None,
        "stage": call.stage,
        "status": call.status,
        "headers": call.headers,
        "refusal": call.refusal,
    }


def _import_litellm() -> Any:
    """LiteLLM, on our transports and silenced: no telemetry, no callbacks, no debugging hints on stdout."""
    import litellm  # noqa: PLC0415  # this process exists to keep this import away from the others

    own_transports()

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = True
    litellm.callbacks = []
    litellm.success_callback = []
    litellm.failure_callback = []
    litellm.cache = None
    return litellm


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        litellm = _import_litellm()
    # The boundary to an installation that may be broken in any way: the service is told, and this process ends.
    except Exception as exc:  # noqa: BLE001
        writer.write(encode({"broken": f"{type(exc).__name__}: {exc}"[:MESSAGE_CHARS]}))
        await writer.drain()
        return
    from importlib.metadata import version  # noqa: PLC0415

    writer.write(encode({"ready": version("litellm")}))
    with contextlib.suppress(ConnectionError, BrokenFrame):
        await _Worker(litellm, writer).serve(reader)


def main() -> None:
    """Serve calls over the file descriptor that is the only argument."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
    finally:
        # Threads and atexit hooks of LiteLLM's would hold the process for seconds; its sockets end with it anyway.
        os._exit(0)


if __name__ == "__main__":
    main()
