"""What sessions, variables and files look like on their way in and out."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from service.errors import BadRequest
from service.money import NanoUSD, parse_usd
from service.runs.session_use.values import (
    MAX_METADATA,
    MAX_METADATA_KEY_CHARS,
    MAX_METADATA_VALUE_CHARS,
    MAX_NAME_CHARS,
    SessionChange,
    SessionState,
    SessionView,
)
from service.web.runs.shapes import ModelName
from service.web.shapes import Money, Shape, Shown, UsdText, example, money

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_KEY_CHARS)],
        Annotated[str, StringConstraints(max_length=MAX_METADATA_VALUE_CHARS)],
    ],
    Field(max_length=MAX_METADATA),
]

EXAMPLE_OF_SESSION: dict[str, Any] = {
    "session_id": "ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "name": "notebook",
    "metadata": {"team": "claims"},
    "state": "idle",
    "sub_model": "openai/gpt-5-nano",
    "budget": {"usd": "5.00", "nano_usd": 5_000_000_000},
    "run_id": None,
    "generation": 1,
    "isolation": None,
    "created_at": 1763640000.0,
    "closed_at": None,
}
EXAMPLE_OF_FILES: dict[str, Any] = {"files": [{"path": "out/table.csv", "size_bytes": 4}], "is_complete": True}


class SessionGiven(Shape):
    """A session to be opened, or what is to be different about one. What is left out, or null, stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "notebook", "metadata": {"team": "claims"}, "sub_model": "openai/gpt-5-nano"}]
        }
    )

    name: Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)] | None = None
    metadata: Metadata | None = Field(default=None, description="Replaces what there is, whole.")
    budget_usd: UsdText | None = Field(default=None, description="Decimal USD, for everything done in the session.")
    sub_model: ModelName | None = Field(
        default=None, description="What `llm_query` in direct cells calls; the operator's default where it has none."
    )

    def change(self) -> SessionChange:
        """Raises `BadRequest` for an amount that cannot be one."""
        return SessionChange(
            name=self.name,
            metadata=self.metadata,
            budget=usd_of(self.budget_usd, "budget_usd"),
            sub_model=self.sub_model,
        )


AS_USUAL = SessionGiven()


class ShownSession(Shown):
    """A session as it stands."""

    model_config = example(EXAMPLE_OF_SESSION)

    session_id: str
    name: str
    metadata: dict[str, str]
    state: SessionState = Field(
        description="`idle`: without a sandbox; the next use brings one up with everything in it. `ready`: its sandbox "
        "waits. `busy`: a run is in it."
    )
    sub_model: str | None
    budget: Money | None
    run_id: str | None = Field(description="The run that is in it.")
    generation: int = Field(description="How many sandboxes it has had.")
    isolation: str | None = Field(description="In force in its sandbox (`docker/runsc`); null while it has none.")
    created_at: float
    closed_at: float | None


class SessionPage(Shown):
    """Sessions, newest first."""

    model_config = example({"sessions": [EXAMPLE_OF_SESSION], "next_cursor": None})

    sessions: list[ShownSession]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


class ShownVariable(Shown):
    """A variable that cells or callers made."""

    name: str
    type: str
    size: int | None = Field(description="`len()`, where the type has one.")


class Variables(Shown):
    """At most 200, by name."""

    model_config = example({"variables": [{"name": "x", "type": "int", "size": None}]})

    variables: list[ShownVariable]


class ShownFile(Shown):
    """A regular file of the working directory."""

    path: str
    size_bytes: int


class Files(Shown):
    """At most 1000, by path."""

    model_config = example(EXAMPLE_OF_FILES)

    files: list[ShownFile]
    is_complete: bool = Field(description="False: there are more, or some whose names no path can say.")


class StoredFile(Shown):
    """A file that was put."""

    model_config = example(
        {
            "path": "out/table.csv",
            "size_bytes": 4,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    )

    path: str
    size_bytes: int
    sha256: str


def shown_session(view: SessionView) -> ShownSession:
    return ShownSession(
        session_id=view.session_id,
        name=view.name,
        metadata=dict(view.metadata),
        state=view.state,
        sub_model=view.sub_model,
        budget=None if view.budget is None else money(view.budget),
        run_id=view.run_id,
        generation=view.generation,
        isolation=view.isolation,
        created_at=view.created_at,
        closed_at=view.closed_at,
    )


def usd_of(text: str | None, where: str) -> NanoUSD | None:
    """Raises `BadRequest`: the amount in this field cannot be one."""
    try:
        return None if text is None else parse_usd(text)
    except ValueError as error:
        raise BadRequest(f"{where}: {error}", data={"param": where}) from None


ValueForm = Literal["text", "json"]
