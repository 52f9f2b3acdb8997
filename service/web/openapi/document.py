"""The document, put together."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.web.openapi.links import link
from service.web.openapi.refusals import declare_refusals
from service.web.shapes import NULL

OPEN_TAG = "operations"
DESCRIPTION = """\
Answers questions over contexts far larger than any model's window, by running a Recursive Language Model.

Amounts are exact: a decimal string in USD and whole nano-USD. Times are Unix seconds. Ids are opaque.
"""


def document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    made = get_openapi(title=app.title, version=version("rlm-service"), description=app.description, routes=app.routes)
    document: dict[str, Any] = with_nulls(made)
    document["components"]["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key (`rlm_…`); also as `x-api-key`."}
    }
    document["security"] = [{"apiKey": []}]
    for methods in document["paths"].values():
        for operation in methods.values():
            if OPEN_TAG in operation.get("tags", ()):
                operation["security"] = []
    declare_refusals(document)
    link(document)
    return document


def with_nulls(value: Any) -> Any:
    """The same with null wherever an example has what stands for it."""
    match value:
        case dict():
            return {name: with_nulls(each) for name, each in value.items()}
        case list():
            return [with_nulls(each) for each in value]
        case _:
            return None if value == NULL else value
