"""The error tree's one function: what a nest of exception groups is about."""

from service.errors import BadRequest, NotFound, sole_failure


def test_one_error_comes_out_of_any_number_of_groups() -> None:
    """However many task groups wrapped it."""
    error = NotFound("no run")
    assert sole_failure(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    assert sole_failure(error) is error


def test_one_cause_that_many_tasks_met_is_one_error() -> None:
    """Several errors of one kind count as the first."""
    first, second = NotFound("one"), NotFound("two")
    assert sole_failure(ExceptionGroup("a", [first, ExceptionGroup("b", [second])])) is first


def test_different_errors_stay_a_group() -> None:
    """Nothing is hidden when more than one thing went wrong, and defects of one type are not merged."""
    different = ExceptionGroup("a", [NotFound("one"), BadRequest("two")])
    defects = ExceptionGroup("a", [KeyError("one"), KeyError("two")])
    assert sole_failure(different) is different
    assert sole_failure(defects) is defects
