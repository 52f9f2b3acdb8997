"""Bindings: what a run puts into its namespace, from stored contexts and given tools to what the sandbox is told."""

from dataclasses import dataclass
from pathlib import Path

from sandbox_image.protocol import Binding, BindingKind, BoundFile, TextImage, TextListImage
from service.contexts.redis_contexts import Contexts
from service.contexts.values import Context, LinkedPart
from service.loop.events import RunSubmitted
from service.loop.values import BlobRef, ContextBinding, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run asks for; logged with the session, so that a rebuild asks for the same."""

    contexts: tuple[ContextBinding, ...]
    tools: tuple[Tool, ...]
    is_child: bool
    begins_run: bool = True
    """False for what a direct cell brings along: `answer` and what earlier runs bound stay as they are."""
    histories: tuple[BlobRef, ...] = ()
    """Conversations of the session's earlier runs, oldest first; `sessions` binds them."""


def wanted_of(submitted: RunSubmitted) -> Wanted:
    """What this run asks for."""
    return Wanted(
        contexts=submitted.bindings,
        tools=submitted.tools,
        is_child=submitted.depth > 0,
        begins_run=submitted.code is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the sandbox is told, and the blobs that have to be linked for it (bare file name → blob)."""

    bindings: tuple[Binding, ...]
    files: dict[str, Path]


class BindsContexts:
    """Turns what a run asks for into what its sandbox is told."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    async def bound(self, wanted: Wanted) -> Bound:
        """Look the contexts up. Raises `NotFound` for one that has been deleted, and
        `StoreFailed` for one whose text is no longer what was stored."""
        found: list[Binding] = []
        files: dict[str, Path] = {}
        for index, binding in enumerate(wanted.contexts):
            context = await self._contexts.get(binding.context_id)
            await self._contexts.mend_images(context)
            found.append(self._context(index, binding, context, files))
        scopes = ("both", "sub") if wanted.is_child else ("both", "root")
        found.extend(_tool(tool) for tool in wanted.tools if tool.scope in scopes)
        return Bound(bindings=tuple(found), files=files)

    def _context(self, index: int, wanted: ContextBinding, context: Context, files: dict[str, Path]) -> Binding:
        aliases = ["context"] if index == 0 else []
        if wanted.variable is not None:
            aliases.append(wanted.variable)
        files.update(self._contexts.links(context))
        bound_files = [_bound_file(part) for part in self._contexts.linked_parts(context)]
        return Binding(name=f"context_{index}", kind=BindingKind(context.kind), files=bound_files, aliases=aliases)


def _bound_file(part: LinkedPart) -> BoundFile:
    image, texts = part.image, part.list_image
    return BoundFile(
        part=part.part,
        file=part.link,
        size_bytes=part.size_bytes,
        image=None if image is None else TextImage(file=image.sha256, encoding=image.encoding, length=image.length),
        list_image=None
        if texts is None
        else TextListImage(file=texts.sha256, size_bytes=texts.size_bytes, count=texts.count),
    )


def _tool(tool: Tool) -> Binding:
    if tool.code is not None:
        return Binding(name=tool.name, kind=BindingKind.CODE, code=tool.code)
    return Binding(
        name=tool.name,
        kind=BindingKind.CODE,
        code=f"import json as _json\n{tool.name} = _json.loads({tool.value_json!r})\ndel _json\n",
    )
