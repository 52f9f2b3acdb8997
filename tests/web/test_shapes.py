"""The examples in the OpenAPI document."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from service.web import app
from service.web.openapi.document import with_nulls
from service.web.shapes import Shape, Shown

assert app.ROUTERS, "every shape is imported with its routes"


def shapes(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in kind.__subclasses__():
        yield each
        yield from shapes(each)


def examples(kind: type[BaseModel]) -> list[object]:
    more = kind.model_config.get("json_schema_extra")
    found = more.get("examples", []) if isinstance(more, dict) else []
    assert isinstance(found, list)
    return [with_nulls(each) for each in found]


SHAPES = [each for kind in (Shape, Shown) for each in shapes(kind)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda each: each.__name__)
def test_an_example_has_the_shape_that_it_is_an_example_of(shape: type[BaseModel]) -> None:
    """Whoever copies one from the document sends something that is understood, or reads what really comes."""
    for example in examples(shape):
        shape.model_validate(example)
