"""What an answer is to be like: `response_format`."""

from typing import Any

from service.errors import BadRequest

_ANY_OBJECT = {"type": "object"}


def schema_of(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that it stands for; None for text. Both the nested form of chat completions and the flat one of
    responses.

    Raises:
        BadRequest: it is none of the known ones.
    """
    kind = None if response_format is None else response_format.get("type")
    match kind:
        case None | "text":
            return None
        case "json_object":
            return dict(_ANY_OBJECT)
        case "json_schema":
            assert response_format is not None
            nested = response_format.get("json_schema", response_format)
            schema = nested.get("schema") if isinstance(nested, dict) else None
            if isinstance(schema, dict):
                return schema
            raise _refused("json_schema has no schema")
        case _:
            raise _refused(f"{str(kind)[:80]!r} is unknown")


def _refused(problem: str) -> BadRequest:
    return BadRequest(
        f"response_format: {problem}; expected text, json_object or json_schema", data={"param": "response_format"}
    )
