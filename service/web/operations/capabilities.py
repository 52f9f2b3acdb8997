"""`/v1/capabilities`: what this service can do, and what it keeps code of models in."""

from importlib.metadata import version

from pydantic import Field

from service.runs.submission.first_event import MAX_CONTEXTS, MAX_QUESTION_CHARS
from service.sandboxes.capabilities import Held
from service.sandboxes.capabilities import capabilities as sandbox_capabilities
from service.web.bodies import LARGEST_UPLOAD_BYTES, NATIVE_BODY_BYTES
from service.web.callers import RunsOfCaller
from service.web.doors import ANY_KEY, open_router
from service.web.preferences import LONGEST_WAIT_S
from service.web.shapes import Shown, example

router = open_router(ANY_KEY, tag="capabilities")


class SandboxPromise(Shown):
    """One thing that code in a sandbox must not be able to do, and how far that goes here."""

    name: str
    held: Held = Field(description="`limited` and `not_held` say in `text` what is lacking.")
    text: str


class SandboxCapability(Shown):
    """What runs the code of models here, found by trying it."""

    provider: str
    level: str
    may_serve_strangers: bool = Field(description="Whether it may serve tenants who do not trust each other.")
    promises: list[SandboxPromise] = Field(description="`docs/security.md` has them side by side.")
    details: list[str] = Field(description="For people.")


class RequestBounds(Shown):
    """How large what is sent may be."""

    json_body_bytes: int
    upload_bytes: int
    question_chars: int
    contexts_per_run: int
    wait_s: float


class Capabilities(Shown):
    """What this service can do."""

    model_config = example(
        {
            "version": "0.1.0",
            "sandbox": {
                "provider": "docker",
                "level": "runsc",
                "may_serve_strangers": True,
                "promises": [{"name": "linux", "held": "held", "text": "another kernel stands before it"}],
                "details": [],
            },
            "bounds": {
                "json_body_bytes": NATIVE_BODY_BYTES,
                "upload_bytes": LARGEST_UPLOAD_BYTES,
                "question_chars": MAX_QUESTION_CHARS,
                "contexts_per_run": MAX_CONTEXTS,
                "wait_s": LONGEST_WAIT_S,
            },
        }
    )

    version: str
    sandbox: SandboxCapability
    bounds: RequestBounds


@router.get("/v1/capabilities", summary="What this service can do")
async def capabilities(runs: RunsOfCaller) -> Capabilities:
    """Any API key may ask."""
    isolation = await runs.rooms.provider.isolation()
    found = sandbox_capabilities(isolation)
    return Capabilities(
        version=version("rlm-service"),
        sandbox=SandboxCapability(
            provider=found.provider,
            level=found.level,
            may_serve_strangers=found.multi_tenant,
            promises=[
                SandboxPromise(name=promise.name, held=promise.held, text=promise.text) for promise in found.promises
            ],
            details=list(isolation.details),
        ),
        bounds=RequestBounds(
            json_body_bytes=NATIVE_BODY_BYTES,
            upload_bytes=LARGEST_UPLOAD_BYTES,
            question_chars=MAX_QUESTION_CHARS,
            contexts_per_run=MAX_CONTEXTS,
            wait_s=LONGEST_WAIT_S,
        ),
    )
