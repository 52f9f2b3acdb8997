"""What schemathesis does not know by itself. It imports this in a process of its own."""

import os
from typing import Any

import schemathesis

MODELS = os.environ["MODELS"].split()
"""Names that lead somewhere: of a model, and of a profile."""
CONTEXT = os.environ["CONTEXT"]
"""One that the tenant has stored."""
_FIELDS = {"root_model": 0, "sub_model": 0, "model": 1}


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def json_lines(_context: Any, value: Any) -> bytes:
    """Lines are a text as they stand: what is generated is not JSON that would have to be written."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """What is named at random is not there, so nothing would ever be asked: most names become some that are."""
    if not isinstance(body, dict):
        return body
    known: dict[str, Any] = {name: MODELS[which] for name, which in _FIELDS.items() if len(str(body.get(name, ""))) % 4}
    if "root_model" in known and "question" in body:
        known |= {"contexts": [{"context_id": CONTEXT}], "tools": [], "answer_schema": None, "prompt_pack": "default"}
    if len(str(body.get("name", ""))) % 4:
        known["name"] = "tried"
    return body | known
