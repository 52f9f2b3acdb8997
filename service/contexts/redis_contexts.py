"""The store of contexts: payloads as blobs, one small record each over Redis.

Keys (all under the tenant's tag): `context:{id}` the record, `contexts` all ids by birth, `contexts:known` from the
fingerprint of name and content to the id, so that the same file put twice is one context; further ones in `lives`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, assert_never

from pydantic import TypeAdapter

from service.contexts.detection import FileKind
from service.contexts.images import Images
from service.contexts.intake import Intake, Payload, check_name, empty, part_of
from service.contexts.json_parsing import facts_of
from service.contexts.lives import ContextLives
from service.contexts.mending import mend_images, payloads_of
from service.contexts.scans import Facts, JsonLinesScan, Preview
from service.contexts.values import Context, ContextAbsent, ContextKind, Life, LinkedPart, Part, TextListImage
from service.errors import BadRequest, Fault, RlmServiceError
from service.ids import ContextId, TenantId, new_id
from service.loop.values import PREVIEW_CHARS
from service.store.blobs import Blobs
from service.store.bodies import Bodies
from service.store.connection import Store
from service.store.errors import BlobTooLarge, StoreFailed
from service.store.keys import Keys
from service.store.scripts import load_script

LARGEST_JSON_BYTES = 1 << 30
"""Of one JSON document, because it is parsed whole, here and in the sandbox. Text and JSON lines have no such bound."""
MOST_PARTS = 10_000
_CREATE = load_script("service.contexts", "create.lua", leaves_keys=True)
_SEAL = load_script("service.contexts", "seal.lua", leaves_keys=True)
_DELETE = load_script("service.contexts", "delete.lua", leaves_keys=True)
_RECORD = TypeAdapter(Context)


class ContextOpen(RlmServiceError):
    """The context is not sealed, so nothing can be asked about it yet."""

    code = "context_open"
    fault = Fault.CALLER


class Contexts:
    """The contexts of one tenant."""

    def __init__(self, store: Store, blobs: Blobs, tenant: TenantId) -> None:
        self._store = store
        self._blobs = blobs
        self._bodies = Bodies(blobs)
        self._keys = Keys(tenant)
        self._images = Images(store, blobs, self._keys)
        self._intake = Intake(blobs, self._images)
        self.lives = ContextLives(store, tenant)
        """How long they stay."""

    async def put(self, name: str, kind: FileKind, payload: Payload) -> Context:
        """Keep a payload as what it is said to be.

        Raises:
            BadRequest: it cannot be read, or is not what it is said to be.
        """
        match kind:
            case "text":
                return await self.put_text(name, payload)
            case "json":
                return await self.put_json(name, payload)
            case "json_lines":
                return await self.put_json_lines(name, payload)
            case _:
                assert_never(kind)

    async def put_text(self, name: str, payload: Payload, *, life: Life = Life.KEPT) -> Context:
        """Keep a text, byte-exactly.

        Raises:
            BadRequest: not UTF-8, with a NUL in it, or empty.
        """
        part, facts = await self._intake.text(name, payload)
        return await self._keep(name, "text", [part], facts, life=life)

    async def put_json_lines(self, name: str, payload: Payload) -> Context:
        """Keep JSON lines; they become a list. Raises `BadRequest` naming the line that is not JSON."""
        ref, facts = await self._intake.scanned(name, payload, JsonLinesScan(name), "json")
        return await self._keep(name, "json_lines", [part_of(name, ref)], facts)

    async def put_json(self, name: str, payload: Payload, *, life: Life = Life.KEPT) -> Context:
        """Keep a JSON document of at most `LARGEST_JSON_BYTES`. Raises `BadRequest` where it is not JSON."""
        part, facts = await self._take_json(name, payload)
        return await self._keep(name, "json", [part], facts, life=life)

    async def prepare(self, name: str, kind: Literal["text", "json"], payload: Payload) -> Context:
        """An unlisted context as it will be: its payload is stored, and nothing refers to it before `keep_prepared`.

        Raises:
            BadRequest: it is not what it is said to be.
        """
        part, facts = await (self._intake.text(name, payload) if kind == "text" else self._take_json(name, payload))
        return _context(ContextId(new_id("ctx")), name, kind, [part], facts=facts, life=Life.UNLISTED)

    async def keep_prepared(self, context: Context) -> None:
        """Keep what was prepared. Idempotent.

        Raises:
            StoreFailed: also when that was so long ago that its payload was collected.
        """
        await self._keep_as(context, Life.UNLISTED, known_by=context.context_id)

    async def _take_json(self, name: str, payload: Payload) -> tuple[Part, Facts]:
        preview = Preview()
        with self._blobs.writer(LARGEST_JSON_BYTES) as writer, self._blobs.writer() as image:
            try:
                await self._intake.pour(name, payload, writer, preview)
            except BlobTooLarge as error:
                raise BadRequest(
                    f"{name}: a JSON document may have {LARGEST_JSON_BYTES} bytes; split it, or store it as JSON lines"
                ) from error
            path = await self._blobs.in_thread(writer.written)
            found = await facts_of(path, writer.size_bytes, self._blobs, image)
            if found.problem:
                raise BadRequest(f"{name}: {found.problem}", data={"name": name})
            part = part_of(name, await self._blobs.in_thread(lambda: writer.commit("json")))
            if found.image_bytes:
                kept = await self._blobs.in_thread(lambda: image.commit("text"))
                texts = TextListImage(sha256=kept.sha256, size_bytes=kept.size_bytes, count=found.length)
                part = replace(part, list_image=texts)
        return part, Facts(type_name=found.type_name, length=found.length, unit=found.unit, preview=preview.text())

    async def put_named_texts(
        self,
        name: str,
        parts: Sequence[tuple[str, Payload]],
        *,
        leave_out: Callable[[BadRequest], None] | None = None,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> Context:
        """Keep several texts as one context; it becomes a dict from part name to text, in this order.

        With `leave_out` a part that cannot be used is told to it and left out, and the others are kept. `progress` is
        told after every part how many are done, of how many.

        Raises:
            BadRequest: a part is not UTF-8 text, two have one name, or all are empty.
        """
        if not 1 <= len(parts) <= MOST_PARTS:
            raise BadRequest(f"{name}: expected 1 to {MOST_PARTS} parts, found {len(parts)}")
        seen: set[str] = set()
        for part, _ in parts:
            check_name(part)
            if part in seen:
                raise BadRequest(f"{name}: two parts are named {part!r}; give each a name of its own")
            seen.add(part)
        kept: list[Part] = []
        preview: dict[str, str] = {}
        with self._blobs.batch() as batch:
            for done, (part, payload) in enumerate(parts):
                progress(done, len(parts))
                try:
                    stored, text = await self._intake.part_of_many(part, payload, batch)
                except BadRequest as error:
                    if leave_out is None:
                        raise
                    leave_out(error)
                    continue
                kept.append(stored)
                if len(preview) < PREVIEW_CHARS:
                    preview[part] = text.preview
            await self._blobs.in_thread(batch.commit)
        return await self._keep(name, "named_texts", kept, _dict_facts(preview, len(kept)))

    async def take_part(self, name: str, payload: Payload) -> tuple[Part, str]:
        """Keep the payload of a part of a context that is yet to be; the part, and its first characters.

        Raises:
            BadRequest: it is not UTF-8 text.
        """
        part, facts = await self._intake.text(name, payload, may_be_empty=True)
        return part, facts.preview

    async def seal(
        self, context_id: ContextId, name: str, parts: Sequence[tuple[Part, str]], *, version: int
    ) -> Context | None:
        """Keep the parts of an open context as one of named texts, in its place; None when that has another version by
        now. Idempotent.

        Raises:
            BadRequest: all are empty.
            ContextAbsent: it is gone.
        """
        preview: dict[str, str] = {}
        for part, text in parts[:PREVIEW_CHARS]:
            preview[part.name] = text
        facts = _dict_facts(preview, len(parts))
        payloads = [part for part, _ in parts]
        context = _context(context_id, name, "named_texts", payloads, facts=facts, life=Life.KEPT)
        await self._require_payloads(context)
        keys = [
            *(self._keys("open_context", context_id), self._keys("open_contexts"), self.key_of(context_id)),
            *(self._keys("contexts"), self._keys("contexts", "known")),
        ]
        arguments: list[str | bytes | int] = [
            context_id,
            await self._bodies.pack(_RECORD.dump_json(context)),
            str(version),
        ]
        match await self._store.run(_SEAL, keys, arguments, is_idempotent=True):
            case b"sealed":
                return await self.get(context_id)
            case b"changed":
                return None
            case _:
                raise _absent(context_id)

    async def get(self, context_id: ContextId) -> Context:
        """Raises `ContextAbsent`, or `ContextOpen` while its parts are still coming."""
        value = await self._store.read("GET", self.key_of(context_id))
        if not isinstance(value, bytes):
            # In this order, because it may be sealed in between.
            is_open, value = await self._store.read_many(
                [("EXISTS", self._keys("open_context", context_id)), ("GET", self.key_of(context_id))]
            )
        if not isinstance(value, bytes):
            if is_open == 1:
                raise ContextOpen(f"context {context_id} is open: seal it when all its parts are there")
            raise _absent(context_id)
        return _RECORD.validate_json(await self._bodies.unpack(value))

    async def list(self, limit: int = 100, before: ContextId | None = None) -> list[Context]:
        """Contexts, newest first, beginning below `before`."""
        start = f"({before}" if before is not None else "+"
        ids = await self._store.read("ZRANGE", self._keys("contexts"), start, "-", "BYLEX", "REV", "LIMIT", 0, limit)
        assert isinstance(ids, list)
        values = await self._store.read_many(
            [("GET", self.key_of(ContextId(each.decode()))) for each in ids if isinstance(each, bytes)]
        )
        # A record that is gone was deleted between the two reads.
        return [_RECORD.validate_json(await self._bodies.unpack(value)) for value in values if isinstance(value, bytes)]

    async def is_listed(self, context_id: ContextId) -> bool:
        """Whether it stands in the tenant's list: it is the tenant's own, whoever else was given it."""
        return await self._store.read("ZSCORE", self._keys("contexts"), context_id) is not None

    async def delete(self, context_id: ContextId) -> None:
        """Forget the context. Its blobs stay until nothing refers to them (`runs.retention`).

        Raises:
            ContextAbsent
        """
        context = await self.get(context_id)
        await self._end(context, unused_since="")

    async def expire(self, context_id: ContextId, *, unused_since: float) -> bool:
        """Delete a transient context, unless it was brought along again since then; whether it is gone. Idempotent."""
        try:
            context = await self.get(context_id)
        except ContextAbsent:
            await self.lives.make_lasting([context_id])
            return True
        return await self._end(context, unused_since=repr(unused_since))

    def linked_parts(self, context: Context) -> tuple[LinkedPart, ...]:
        """The parts in order, each with the bare file name under which it is linked into a session's directory."""
        return tuple(
            LinkedPart(
                part=part.name,
                link=part.sha256,
                size_bytes=part.size_bytes,
                image=part.image,
                list_image=part.list_image,
            )
            for part in context.parts
        )

    def links(self, context: Context) -> dict[str, Path]:
        """From those file names to the blobs to link there, images too; equal parts share one."""
        digests = [part.sha256 for part in context.parts]
        digests += [part.image.sha256 for part in context.parts if part.image is not None]
        digests += [part.list_image.sha256 for part in context.parts if part.list_image is not None]
        return {digest: self._blobs.path(digest) for digest in digests}

    def key_of(self, context_id: ContextId) -> str:
        """What is there for as long as the context is."""
        return self._keys("context", context_id)

    async def mend_images(self, context: Context) -> None:
        """Write images of the context anew that are missing (a backup may leave them out). Called before its links are
        used.

        Raises:
            StoreFailed: one cannot be written, or a text is no longer the one that was stored.
        """
        await mend_images(self._blobs, self._images, context)

    async def _keep(
        self,
        name: str,
        kind: ContextKind,
        parts: Sequence[Part],
        facts: Facts,
        *,
        life: Life = Life.KEPT,
    ) -> Context:
        """Under the id of the same content, or a new one."""
        context = _context(ContextId(new_id("ctx")), name, kind, parts, facts=facts, life=life)
        return await self._keep_as(context, life, known_by=_fingerprint(context))

    async def _keep_as(self, context: Context, life: Life, *, known_by: str) -> Context:
        """What is kept under what it is known by: this one, or the one that was there before."""
        await self._require_payloads(context)
        keys = self._places_of(context.context_id)
        arguments: list[str | bytes | int] = [
            context.context_id,
            await self._bodies.pack(_RECORD.dump_json(context)),
            known_by,
            self._keys("context", ""),
            life,
        ]
        kept = await self._store.run(_CREATE, keys, arguments, is_idempotent=True)
        assert isinstance(kept, bytes)
        kept_id = ContextId(kept.decode())
        return context if kept_id == context.context_id else await self.get(kept_id)

    async def _require_payloads(self, context: Context) -> None:
        """It took so long to store the others that one may have been collected. Raises `StoreFailed`."""
        if await self._blobs.touch(payloads_of(context.parts)):
            raise StoreFailed(f"{context.name}: a part of it is not stored any more; store it again")

    async def _end(self, context: Context, *, unused_since: str) -> bool:
        keys = [*self._places_of(context.context_id), self.lives.left_key]
        known_by = [_fingerprint(context), context.context_id]  # the second when it was sealed
        arguments = [context.context_id, unused_since, *known_by]
        return await self._store.run(_DELETE, keys, arguments, is_idempotent=True) == b"gone"

    def _places_of(self, context_id: ContextId) -> tuple[str, ...]:
        return (
            *(self.key_of(context_id), self._keys("contexts"), self._keys("contexts", "known")),
            self.lives.transient_key,
        )


def _context(
    context_id: ContextId, name: str, kind: ContextKind, parts: Sequence[Part], *, facts: Facts, life: Life
) -> Context:
    """Raises `BadRequest` when there is nothing in it."""
    size_bytes = sum(part.size_bytes for part in parts)
    if size_bytes == 0:
        raise empty(name)
    return Context(
        context_id=context_id,
        name=name,
        kind=kind,
        parts=tuple(parts),
        type_name=facts.type_name,
        length=facts.length,
        unit=facts.unit,
        preview=facts.preview,
        size_bytes=size_bytes,
        created_at=time.time(),
        came_along=life is Life.TRANSIENT,
    )


def _dict_facts(preview: dict[str, str], length: int) -> Facts:
    shown = json.dumps(preview, ensure_ascii=False)[:PREVIEW_CHARS]
    return Facts(type_name="dict", length=length, unit="keys", preview=shown)


def _fingerprint(context: Context) -> str:
    content = [context.kind, context.name, [[part.name, part.sha256] for part in context.parts]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _absent(context_id: ContextId) -> ContextAbsent:
    return ContextAbsent(f"there is no context {context_id}")
