"""What `ask`, `runs fork` and `runs tail` make of a run's end: the exit code, and what a person has to hear of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from service.cli import exit_codes
from service.cli.exit_codes import ExitCode
from service.cli.streams import OutputLost
from service.cli.visible import visible_line
from service.ids import RunId
from service.loop.events import RunFinished
from service.loop.values import StopReason
from service.sandboxes.port import Provider
from service.settings import Settings


def warn_of_settings(settings: Settings) -> None:
    """Before a run begins: of variables that do nothing, and where whoever set them has given isolation up."""
    for sentence in settings.without_effect:
        sys.stderr.write(f"rlm-service: {visible_line(sentence)}\n")
    if settings.unsafe_no_sandbox:
        sys.stderr.write(
            "rlm-service: RLM_UNSAFE_NO_SANDBOX=1: where no isolation works, code runs WITHOUT ISOLATION\n"
        )


async def warn_of_weak_isolation(provider: Provider) -> None:
    """Likewise, where the isolation that was found holds less than it says by its being there.

    Raises:
        SandboxRefused: none was found.
    """
    if warning := (await provider.isolation()).warning:
        sys.stderr.write(f"rlm-service: {warning}\n")


@contextmanager
def delivering(run_id: RunId) -> Iterator[None]:
    """While the run's answer is handed out: where it is lost, the sentence says how to get it again."""
    try:
        yield
    except OutputLost as lost:
        raise OutputLost(lost.where, lost.reason, run_id=run_id) from lost


def code_of(finished: RunFinished | None) -> ExitCode:
    """Of a run that was watched to its end, or was left before."""
    if finished is None:
        return ExitCode.CANCELLED
    if finished.stop_reason is StopReason.INTERNAL_ERROR:
        sys.stderr.write("rlm-service: a defect of this program ended the run, please report it with --traceback\n")
    return exit_codes.of_run(finished.stop_reason, finished.answer_source)
