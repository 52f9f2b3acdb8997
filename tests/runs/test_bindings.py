"""Bindings: from stored contexts to what a sandbox is told, and to the files that are linked for it."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandbox_image.bindings import ContextFiles, bind_all
from sandbox_image.host_functions import CallChannel, HostFunctions
from sandbox_image.interrupts import Interrupts
from sandbox_image.namespace import Namespace
from sandbox_image.protocol import BindRequest
from sandbox_image.shared_text import SharedTexts, layout_of, this_interpreter
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context
from service.loop.values import ContextBinding
from service.runs.sessions.bindings import BindsContexts, Bound, Wanted
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

EMOJI = "\U0001f600"


def file(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


async def bound(contexts: Contexts, found: Sequence[Context]) -> Bound:
    wanted = tuple(ContextBinding(context_id=context.context_id) for context in found)
    return await BindsContexts(contexts).bound(Wanted(contexts=wanted, tools=(), is_child=False))


def in_a_kernel(bound: Bound, directory: Path, *, maps: bool) -> dict[str, object]:
    """The namespace of a kernel that can map texts, or of one that cannot."""
    for name, blob in bound.files.items():
        (directory / name).hardlink_to(blob)
    layout = layout_of(this_interpreter())
    assert layout is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        namespace = Namespace(HostFunctions(CallChannel(ours, Interrupts())))
    bind_all(
        namespace,
        BindRequest(bindings=list(bound.bindings)),
        ContextFiles(str(directory), SharedTexts(layout) if maps else None),
    )
    return namespace.names


@pytest.mark.parametrize("maps", [True, False])
async def test_stored_contexts_arrive_as_they_were_whether_mapped_or_decoded(
    stored: Stored, tmp_path: Path, maps: bool
) -> None:
    """Texts of every width, parts large and small, and a list of texts are the same values in both kinds of kernel."""
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    texts = [f"line of {widest}\r\n" * 200_000 for widest in ("~", "ÿ", "€", EMOJI)]
    found = [await contexts.put_text("t", file(tmp_path, "t", text)) for text in texts]
    parts = [("large", file(tmp_path, "large", texts[2])), ("small", file(tmp_path, "small", "ÿ"))]
    found.append(await contexts.put_named_texts("n", parts))
    listed = [*texts, "short"]
    found.append(await contexts.put_json("l", file(tmp_path, "l", json.dumps(listed))))
    names = in_a_kernel(await bound(contexts, found), tmp_path, maps=maps)
    assert [names[f"context_{number}"] for number in range(4)] == texts
    assert names["context"] is names["context_0"]
    assert names["context_4"] == {"large": texts[2], "small": "ÿ"}
    assert names["context_5"] == listed
