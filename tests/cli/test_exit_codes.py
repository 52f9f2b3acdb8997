"""The exit codes that scripts rely on."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import service
from service.cli import exit_codes
from service.cli.exit_codes import EXIT_CODE_OF_FAULT, ExitCode
from service.cli.run_ends import code_of, delivering
from service.cli.streams import OutputLost
from service.errors import BadRequest, Fault, RlmServiceError
from service.ids import RunId
from service.loop.events import RunFinished
from service.loop.values import AnswerSource, StopReason
from service.models.providers import MissingApiKey
from service.money import NanoUSD

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def every_error_class() -> list[type[RlmServiceError]]:
    for module in pkgutil.walk_packages(service.__path__, "service."):
        importlib.import_module(module.name)
    found, unseen = [], [RlmServiceError]
    while unseen:
        found.append(unseen.pop())
        unseen += found[-1].__subclasses__()
    return [error for error in found if error.__module__.startswith("service.")]  # tests make some of their own


def test_every_fault_has_an_exit_code_of_its_own() -> None:
    """Table and error tree agree: no fault is missing, and a script can tell them apart."""
    assert set(EXIT_CODE_OF_FAULT) == set(Fault)
    assert len(set(EXIT_CODE_OF_FAULT.values())) == len(Fault)


def test_every_error_of_the_service_has_an_exit_code_and_a_code_of_its_own() -> None:
    """Whatever room an error comes from, it ends with a documented exit code; none claims success."""
    errors = every_error_class()
    for error in errors:
        assert EXIT_CODE_OF_FAULT[error.fault] is not ExitCode.ANSWERED
    # A kind of another error may share its code: whoever reads the code need not tell them apart.
    codes = [error.code for error in errors if error is not RlmServiceError and "code" in vars(error)]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("source", AnswerSource)
def test_only_a_submitted_answer_is_success(source: AnswerSource) -> None:
    """Exit code 0 means that the model declared its answer final, or that a direct cell, which has none, has run."""
    for reason in StopReason:
        code = exit_codes.of_run(reason, source)
        is_submitted = reason is StopReason.ANSWERED and source is AnswerSource.SUBMITTED
        is_success = is_submitted or reason is StopReason.CELL_DONE
        assert (code is ExitCode.ANSWERED) == is_success


def test_the_documented_table_is_the_table() -> None:
    """docs/cli.md lists every exit code and no other, each with the stop reasons that lead to it."""
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", DOCS.read_text(), re.MULTILINE)
    documented = {int(number): set(re.findall(r"`(\w+)`", reasons)) for number, reasons in rows}
    table: dict[int, set[str]] = {int(code): set() for code in ExitCode}
    for reason in StopReason:
        table[exit_codes.of_run(reason, AnswerSource.SUBMITTED)].add(reason.value)
    assert documented == table


def test_what_is_wrong_with_the_environment_ends_alike() -> None:
    """A setting that cannot be used and a key that is missing are both mended by whoever typed the command."""
    assert exit_codes.of_error(BadRequest("")) is exit_codes.of_error(MissingApiKey("")) is ExitCode.BAD_USAGE


def test_an_answer_that_is_lost_names_its_run() -> None:
    """Where an answer cannot be handed out, the sentence says with which command it is printed again."""
    with pytest.raises(OutputLost, match="runs show run_1 --answer"), delivering(RunId("run_1")):
        raise OutputLost("stdout", "no space left")


def test_a_defect_is_asked_to_be_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that a defect ended has a line on stderr besides its exit code; one that was left has none."""
    assert code_of(None) is ExitCode.CANCELLED
    assert capsys.readouterr().err == ""
    finished = RunFinished(
        at=1.0,
        stop_reason=StopReason.INTERNAL_ERROR,
        answer_source=AnswerSource.PARTIAL,
        answer=None,
        spent=NanoUSD(0),
    )
    assert code_of(finished) is ExitCode.INTERNAL
    assert "please report it" in capsys.readouterr().err
