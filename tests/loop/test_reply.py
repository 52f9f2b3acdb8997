"""The grammar of replies."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.loop.reply import MAX_BLOCKS, MAX_NEAR_MISSES, Final, parse, visible


def text(value: str) -> Final:
    return Final(kind="text", value=value)


def variable(name: str) -> Final:
    return Final(kind="variable", value=name)


@pytest.mark.parametrize(
    ("reply", "blocks"),
    [
        ("```repl\nx = 1\n```", ("x = 1",)),
        ("```PYTHON\nx = 1\n```", ("x = 1",)),
        ("~~~repl\nx = 1\n~~~", ("x = 1",)),
        ("````repl\nx = 1\n```\ny\n````", ("x = 1\n```\ny",)),
        ("```repl title\nx\n```  \nthen", ("x",)),
        ("```repl\r\nx = 1\r\ny = 2\r\n```\r\n", ("x = 1\r\ny = 2",)),
        ("one\n```repl\na\n```\ntwo\n```python\nb\n```", ("a", "b")),
        ("```repl\nunclosed = 1", ("unclosed = 1",)),
        ("```repl\na\n```repl\nb\n```", ("a", "b")),
        ("```repl\na\n  ```\nprose", ("a",)),
        ("```\nstray\n```repl\nb\n```", ("b",)),
        ("```repl\nx = ~~~y\n```", ("x = ~~~y",)),
        ("<think>\n```repl\nno\n```\n</think>\n```repl\nyes\n```", ("yes",)),
        ("```repl\n\n```", ()),
        ("```py\nx\n```", ()),
        (" ```repl\nx\n ```", ()),
        ("```repl x```", ()),
    ],
)
def test_which_fences_run(reply: str, blocks: tuple[str, ...]) -> None:
    """Fences labelled repl or python run, exactly as written; an unclosed last one as well."""
    assert parse(reply).blocks == blocks


@pytest.mark.parametrize(
    "code",
    [
        'md = """\n```python\nprint(1)\n```\n"""\nprint(md)',
        "md = '''\n```\nit's\n```\n'''",
        "x = 'don\\'t'  # isn't \"\"\" a string\nmd = '''\n```\n'''",
        'a = """ \\""" \n```\n"""',
        "s = 'open \\\n```\n closed'",
    ],
)
def test_a_fence_inside_a_string_does_not_cut_the_block(code: str) -> None:
    """A model that prints Markdown from a string runs what it wrote."""
    reply = parse(f"```repl\n{code}\n```\nFINAL(1)")
    assert reply.blocks == (code,)
    assert reply.final == text("1")


def test_an_unbalanced_quote_falls_back_to_the_first_closing_line() -> None:
    """Code that never closes its string still ends where its fence ends."""
    reply = parse("```repl\nx = '''oops\n```\nprose\n```\nmore\n```")
    assert reply.blocks == ("x = '''oops",)


@pytest.mark.parametrize(
    ("reply", "final"),
    [
        ("FINAL(42)", text("42")),
        ("so:\n  FINAL(f(x) and (y))\n", text("f(x) and (y)")),
        ("FINAL(one\ntwo (2)\nthree)", text("one\ntwo (2)\nthree")),
        ('FINAL("a) b")', text("a) b")),
        ("FINAL('''many\nlines''')", text("many\nlines")),
        ('FINAL(He said "1)" and left)', text('He said "1)" and left')),
        ("FINAL(it's fine :) really)", text("it's fine :) really")),
        ("FINAL(sad :( but done)", text("sad :( but done")),
        ("FINAL(42) (as computed)", text("42")),
        ("**FINAL(42)**", text("42")),
        ("FINAL()", text("")),
        ("FINAL_VAR(result)", variable("result")),
        ('FINAL_VAR("result")', variable("result")),
        ("FINAL_VAR( 'größe' )", variable("größe")),
        ("FINAL(1)\nFINAL(2)", text("2")),
        ("FINAL_VAR(a)\nFINAL(2)", text("2")),
        ("I will say FINAL(42) soon", None),
        ("FINAL", None),
        ("FINAL_VAR(two words)", None),
        ("```repl\nFINAL(1)\n```", None),
        ("```\nFINAL(1)\n```", None),
        ("<think>FINAL(1)</think>\nFINAL(2)", text("2")),
    ],
)
def test_which_finals_count(reply: str, final: Final | None) -> None:
    """Finals count at the start of a line outside fences, with balanced brackets over any lines; the last wins."""
    assert parse(reply).final == final


def test_an_open_final_does_not_swallow_the_code_after_it() -> None:
    """A final that is never closed ends where code begins, and is told."""
    reply = parse("FINAL(I will compute\n```repl\nprint(1)\n```")
    assert (reply.final, reply.blocks) == (None, ("print(1)",))
    assert any("FINAL(" in miss for miss in reply.near_misses)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("```bash\nls\n```", "found ```bash"),
        ("```\nx\n```", "``` without a label"),
        ("  ```repl\nx\n  ```", "indented"),
        ("```repl\nx = 1\n``` done\n", "closed badly"),
        ("```repl\nprint(1)```\n", "stand alone"),
        ("```\nFINAL(3)\n```", "FINAL was written inside a fence"),
        ("FINAL(never closed", "matching closing bracket"),
        ("```repl\n \n```", "empty"),
        ("```repl\nx\n```\n" * (MAX_BLOCKS + 1), "Only the first"),
    ],
)
def test_near_misses_are_told(reply: str, told: str) -> None:
    """Whatever looks like code or a final and is not gets a sentence."""
    assert any(told in miss for miss in parse(reply).near_misses)


@pytest.mark.parametrize("reply", ["FINAL(1)\n```json\n{}\n```", "```repl\nx\n```\n```bash\nls\n```", "just prose"])
def test_other_fences_beside_code_or_a_final_are_no_near_miss(reply: str) -> None:
    """A fence that only formats is not complained about."""
    assert parse(reply).near_misses == ()


PIECES = st.sampled_from(
    [
        *(
            "```repl\n",
            "```python\n",
            "```\n",
            "~~~\n",
            "````\n",
            "```js\n",
            "  ```repl\n",
            "FINAL(",
            "FINAL_VAR(",
            ")",
        ),
        *("\n", "'''", '"""', "'", '"', "\\", "x = 1\n", "#", "(", "\r\n", "<think>", "</think>", " ", "\x0c", "\x85"),
    ]
)
REPLIES = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=40).map("".join))


@given(REPLIES)
@settings(max_examples=500)
def test_reading_never_raises_and_invents_nothing(reply: str) -> None:
    """Any string is a reply; blocks stand in it in order, sets are bounded, and reading is repeatable."""
    read = parse(reply)
    position = 0
    for block in read.blocks:
        position = visible(reply).index(block, position) + len(block)
    assert len(read.blocks) <= MAX_BLOCKS
    assert len(read.near_misses) <= MAX_NEAR_MISSES
    assert all(block.strip() for block in read.blocks)
    assert parse(reply) == read


@given(st.lists(st.sampled_from(["x = 1", "print('it')", "y = '''a\n```\nb'''", "# don't"]), min_size=1, max_size=5))
def test_what_is_fenced_comes_back(codes: list[str]) -> None:
    """Code that is put into fences is read back as it was, however many blocks there are."""
    assert parse("\n".join(f"Next.\n```repl\n{code}\n```" for code in codes)).blocks == tuple(codes)


HOSTILE = {
    "backticks": lambda size: "`" * size,
    "lines of backticks": lambda size: "```\n" * (size // 4),
    "opening fences": lambda size: "```repl\n" * (size // 8),
    "open strings": lambda size: "```repl\n'''\\'''\n```\n" * (size // 20),
    "escaped quotes": lambda size: "```repl\n\\'''\n```\n" * (size // 17),
    "brackets": lambda size: "FINAL(" + "(" * size,
    "pairs": lambda size: "FINAL(" + "()" * (size // 2),
    "closing brackets": lambda size: "FINAL(" + ")" * size,
    "open finals": lambda size: "FINAL(\n" * (size // 7),
    "open finals before a closing": lambda size: "FINAL(\n" * (size // 7) + ")",
    "finals with strings": lambda size: 'FINAL("""' * (size // 9),
    "final strings on lines": lambda size: "FINAL('\n" * (size // 8),
    "final variables": lambda size: "FINAL_VAR(a\n" * (size // 12),
    "finals and fences": lambda size: "FINAL(\n```repl\n\n```\n" * (size // 20),
    "quotes": lambda size: "```repl\n" + "'\"" * (size // 2),
    "spaces": lambda size: "FINAL_VAR(" + " " * size,
    "indented fences": lambda size: " ```repl\n" * (size // 9),
    "good finals": lambda size: "FINAL(1)\n" * (size // 9),
    "finals with a quoted bracket": lambda size: 'FINAL(")" (\n' * (size // 12),
    "tilde fences in strings": lambda size: "~~~repl\n'''\n~~~\n'''\n" * (size // 20),
    "strings in finals": lambda size: 'FINAL("""a")\n' * (size // 13),
    "thoughts": lambda size: "<think>" * (size // 7),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_reading_takes_time_in_proportion_to_the_size(kind: str) -> None:
    """Eight times the text takes nowhere near sixty-four times the work, whatever the text."""

    def work(size: int) -> float:
        reply = HOSTILE[kind](size)
        started = time.process_time()
        parse(reply)
        return time.process_time() - started

    small = min(work(60_000) for _ in range(3))
    # A busy machine's caches cost processor time too: one measurement that was not disturbed is enough.
    assert any(work(480_000) < 30 * max(small, 0.01) for _ in range(3))
