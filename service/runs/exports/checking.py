"""Checking an export: whether what was read is a finished run that stands for itself, as strictly as a submission."""

import math
import re

from pydantic import ValidationError

from service.errors import BadRequest
from service.journal.values import CellRecord
from service.loop.events import (
    CallFinished,
    CellFinished,
    HostCallAnswered,
    RunFinished,
    RunSubmitted,
    ValueRead,
)
from service.loop.values import BlobRef
from service.runs.exports.reading import ReadExport
from service.runs.sessions.replaying import BLOB
from service.runs.submission.first_event import check_request
from service.runs.values import RunRequest

MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 200_000


def checked(read: ReadExport) -> RunSubmitted:
    """The first event of the run in the file, once all of it is found to be one.

    Raises:
        BadRequest
    """
    header, events = read.header, read.events
    if header is None or not events or not isinstance(events[0], RunSubmitted):
        raise BadRequest("the export holds no run: its first event must be RunSubmitted")
    submitted = events[0]
    kinds = [type(event) for event in events]
    if kinds.count(RunSubmitted) != 1 or kinds.count(RunFinished) != 1 or kinds[-1] is not RunFinished:
        raise BadRequest("the export holds no finished run: it must begin with RunSubmitted and end with RunFinished")
    if submitted.run_id != header.run_id or submitted.is_direct or submitted.code is not None or submitted.depth:
        raise BadRequest("the export holds no run that could be imported: it must be a root run with a loop")
    if submitted.parent_run_id is not None or submitted.origin is not None:
        raise BadRequest("the export holds a run that says to be another one's child: only root runs are imported")
    _check_submitted(submitted, read)
    own = re.compile(rf"{re.escape(submitted.run_id)}\.(t\d{{1,6}}\.b\d{{1,6}}|h\d{{1,6}})")
    cells = [event.result.cell_id for event in events if isinstance(event, CellFinished)]
    cells += [event.key.cell_id for event in events if isinstance(event, HostCallAnswered)]
    cells += [event.origin.cell_id for event in events if isinstance(event, CallFinished) and event.origin is not None]
    cells += [record.cell_id for record in read.cells]
    if not all(own.fullmatch(cell) for cell in cells):
        raise BadRequest("the export names a cell that is not of its run")
    for record in read.cells:
        if record.run_id != submitted.run_id or record.kind not in ("cell", "history"):
            raise BadRequest("the export's log may only have cells and histories of its own run")
        if record.kind == "history":
            _check_kept(history_of(record), read)
    for event in events:
        ref = event.blob if isinstance(event, ValueRead) else event.answer if isinstance(event, RunFinished) else None
        if ref is not None:
            _check_kept(ref, read)
    return submitted


def _check_submitted(submitted: RunSubmitted, read: ReadExport) -> None:
    """As strictly as a submission; what names no more than itself (models, prompts) need not be here."""
    check_request(
        RunRequest(
            question=submitted.question,
            contexts=submitted.bindings,
            root_model=submitted.root_model,
            sub_model=submitted.sub_model,
            limits=submitted.limits,
            answer_schema=submitted.answer_schema,
            tools=submitted.tools,
        )
    )
    names = (submitted.root_model, submitted.sub_model, submitted.prompt.pack)
    if max(map(len, names)) > MAX_NAME_CHARS or len(submitted.prompt.system) > MAX_PROMPT_CHARS:
        raise BadRequest("a model's name, or the prompt, is too long in the export")
    if not (math.isfinite(submitted.deadline_at) and len(submitted.contexts) == len(submitted.bindings)):
        raise BadRequest("the export's first event does not fit itself")
    given = [line.context_id for line in read.contexts]
    if sorted(given) != sorted({binding.context_id for binding in submitted.bindings}):
        raise BadRequest("the export does not have the contexts that its run is about, each once")


def _check_kept(ref: BlobRef, read: ReadExport) -> None:
    """What the run refers to must be in the file itself, so that nothing else of the tenant's can be named."""
    kept = read.kept.get(ref.sha256)
    if kept is None or kept.size_bytes != ref.size_bytes:
        raise BadRequest(
            f"the export leaves out blob {ref.sha256} ({ref.size_bytes} bytes): export it with a higher limit"
        )


def history_of(record: CellRecord) -> BlobRef:
    try:
        return BLOB.validate_json(record.code)
    except ValidationError:
        raise BadRequest("a history in the export's log names no blob") from None
