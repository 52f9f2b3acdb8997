"""The error tree's one function: what a nest of exception groups is about."""

from service.errors import NotFound, sole_failure


def test_one_error_comes_out_of_any_number_of_groups() -> None:
    """However many task groups wrapped it."""
    error = NotFound("no run")
    assert sole_failure(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    assert sole_failure(error) is error


def test_one_cause_that_many_tasks_met_is_one_error() -> None:
    """The first error of ours counts, among its like and among what it made others stumble over."""
    first, second = NotFound("one"), NotFound("two")
    assert sole_failure(ExceptionGroup("a", [KeyError("noise"), first, ExceptionGroup("b", [second])])) is first


def test_several_defects_stay_a_group() -> None:
    """Nothing is hidden when more than one thing of unknown kind went wrong."""
    defects = ExceptionGroup("a", [KeyError("one"), KeyError("two")])
    assert sole_failure(defects) is defects
