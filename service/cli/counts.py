"""Numbers of things as people write them."""

from collections.abc import Mapping


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def refused_text(refused: Mapping[str, int]) -> str:
    """What follows a number of sub-calls where a limit forbade more: `, 51 refused (budget)`."""
    if not refused:
        return ""
    by_limit = [(limit.replace("_", " "), count) for limit, count in sorted(refused.items())]
    if len(by_limit) == 1:
        return f", {by_limit[0][1]:,} refused ({by_limit[0][0]})"
    why = ", ".join(f"{count:,} {limit}" for limit, count in by_limit)
    return f", {sum(refused.values()):,} refused ({why})"
