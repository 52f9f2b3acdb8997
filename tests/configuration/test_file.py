"""The configuration file: what it says arrives exactly, and what is wrong with it is told with its line."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from service.configuration.file import Configuration, read_configuration
from service.errors import BadRequest
from service.loop.packs import read_pack
from service.loop.values import Limits
from service.models.catalog import Catalog, UnpricedModel
from service.models.entries import Api, ModelEntry
from service.models.prices import Price
from service.models.providers import Access
from service.runs.answering.profiles import Profile

GOOD = """
[models."local/qwen3"]
window_tokens = 40960
max_output_tokens = 8192
input_usd_per_million = "0.10"
cached_input_usd_per_million = "0.05"
output_usd_per_million = "0.30"
may_reason = true
api = "anthropic"
upstream = "Qwen/Qwen3-32B"
base_url = "http://127.0.0.1:8000/v1/"
api_key_env = "QWEN_KEY"
fallbacks = ["openai/gpt-5-mini", "scripted/root"]

[models.free]
input_usd_per_million = "0"
output_usd_per_million = "0"

[profiles."rlm/deep"]
root = "openai/gpt-5"
sub = "local/qwen3"
prompt_pack = "ours"
max_cost = "2.50"
max_turns = 60
max_depth = 2
max_tokens = 5_000_000
max_sub_calls = 0
timeout_s = 3600
cell_timeout_s = 0.5

[profiles.quick]
root = "openai/gpt-5-nano"

[prompt_packs.ours]
path = "packs/ours.toml"
"""


def written(directory: Path, text: str, pack: str = 'base = "frugal"\nchunk_percent = 7\n') -> Path:
    (directory / "packs").mkdir(exist_ok=True)
    (directory / "packs" / "ours.toml").write_text(pack)
    path = directory / "rlm.toml"
    path.write_text(text)
    return path


def test_the_file_is_read(tmp_path: Path) -> None:
    """Every key of every table arrives, exactly."""
    read = read_configuration(written(tmp_path, GOOD))
    assert read.models["local/qwen3"] == ModelEntry(
        window_tokens=40_960,
        max_output_tokens=8192,
        may_reason=True,
        price=Price(input=100_000_000, cached_input=50_000_000, cache_write=100_000_000, output=300_000_000),
        api=Api.ANTHROPIC,
        upstream="Qwen/Qwen3-32B",
        base_url="http://127.0.0.1:8000/v1",
        api_key_env="QWEN_KEY",
        fallbacks=("openai/gpt-5-mini", "scripted/root"),
    )
    assert read.models["free"].price == Price(input=0, cached_input=0, cache_write=0, output=0)
    assert read.profile("rlm/deep") == Profile(
        root="openai/gpt-5",
        sub="local/qwen3",
        prompt_pack="ours",
        limits={
            "cost": 2_500_000_000,
            "turns": 60,
            "depth": 2,
            "tokens": 5_000_000,
            "sub_calls": 0,
            "wall_s": 3600.0,
            "cell_active_s": 0.5,
        },
    )
    assert read.profile("rlm/deep").limits.keys() <= {field.name for field in fields(Limits)}
    assert read.profile("quick") == Profile(root="openai/gpt-5-nano")


def test_a_pack_is_known_by_the_name_it_is_given(tmp_path: Path) -> None:
    """A pack's file lies beside the configuration, changes its base, and goes by its name in the configuration."""
    pack = read_configuration(written(tmp_path, GOOD)).prompt_packs["ours"]
    assert (pack.name, pack.chunk_percent) == ("ours", 7)
    assert pack.contract == read_pack("frugal").contract


def test_no_file_says_nothing() -> None:
    """Without RLM_CONFIG there are the shipped profiles and no entries, and asking for another says what to set."""
    nothing = read_configuration(None)
    assert nothing == Configuration(profiles=nothing.profiles)
    assert set(nothing.profiles) == {"rlm/default", "rlm/fast", "rlm/deep", "rlm/auto"}
    with pytest.raises(BadRequest, match="RLM_CONFIG; there are: rlm/default, rlm/fast, rlm/deep"):
        nothing.profile("deep")


def test_shipped_profiles_fit_whoever_names_a_model() -> None:
    """They name no model, what they bound are limits, and `rlm/default` is what a run without a profile has."""
    shipped = read_configuration(None).profiles
    assert {profile.root for profile in shipped.values()} == {profile.sub for profile in shipped.values()} == {None}
    limits: dict[str, Any] = dict(shipped["rlm/default"].limits)
    assert replace(Limits(), **limits) == Limits()
    assert read_pack(shipped["rlm/fast"].prompt_pack).name == "frugal"


def test_a_profile_of_the_operators_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    """Whole: what it leaves out is not the shipped one's."""
    read = read_configuration(written(tmp_path, '[profiles."rlm/fast"]\nroot = "scripted/root"'))
    assert read.profile("rlm/fast") == Profile(root="scripted/root")
    assert set(read.profiles) == {"rlm/default", "rlm/fast", "rlm/deep", "rlm/auto"}


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    """The file and all profiles stand in the message."""
    with pytest.raises(BadRequest, match=r"rlm\.toml has none of that name; there are: rlm/default, .*, quick"):
        read_configuration(written(tmp_path, GOOD)).profile("dep")


MISTAKES = [
    ("[models.a]\nwindow_tokens = -1", r"line 2: \[models.\"a\"\] window_tokens: expected a whole number from 1 to"),
    ("[models.a]\nwindow_tokens = true", "line 2"),
    ("\n[models.a]\ncontext = 5", "line 3.*unknown key 'context'; known are window_tokens"),
    ('[models.a]\ninput_usd_per_million = "0.1"', "line 1.*output_usd_per_million is missing"),
    ('[models.a]\noutput_usd_per_million = "0.1"', "input_usd_per_million is missing"),
    ("[models.a]\ninput_usd_per_million = 0.1", "line 2.*as a string such as"),
    ('[models.a]\ninput_usd_per_million = "cheap"', "line 2.*such as"),
    ('[models.a]\ninput_usd_per_million = "-1"', "line 2.*expected 0 to"),
    ('[models.a]\ninput_usd_per_million = "NaN"', "line 2.*expected 0 to"),
    ('[models.a]\ninput_usd_per_million = "1e99"', "line 2.*expected 0 to"),
    ('[models.a]\nmay_reason = "yes"', "line 2.*true or false"),
    ('[models.a]\nupstream = ""', "line 2.*not empty"),
    ('[models.a]\nbase_url = "localhost:8000"', "line 2.*http"),
    ('[models.a]\nbase_url = "http://[::1"', "line 2.*http"),
    ('[models.a]\nbase_url = "http://me:secret@host/v1"', "without credentials"),
    ('[models.a]\napi = "grpc"', "line 2.*expected one of openai, anthropic, litellm, found 'grpc'"),
    ('[models.a]\napi_key_env = "sk-secret"', "line 2.*name of an environment variable"),
    ('[models.a]\nfallbacks = "b"', r"line 2.*expected a list of strings such as \[\"a\", \"b\"\]"),
    ("[models.a]\nfallbacks = [1]", "line 2.*expected a list of strings"),
    ('[models.a]\nfallbacks = ["b", "a"]', "line 2.*other models than this one, each once"),
    ('[models.a]\nfallbacks = [\n  "b",\n  "b",\n]\n', "line 2.*each once"),
    ('[models."scripted/root"]\nwindow_tokens = 5', "line 1.*part of the program"),
    ('models."a#b" = { window_tokens = 0 }', r"line 1: \[models.\"a#b\"\] window_tokens"),
    ('[models."a b"]', r"line 1: \[models.\"a b\"\]: expected a model's name.*without spaces"),
    (f'[models."{"a" * 201}"]', "line 1: .*at most 200 characters"),
    ('[models.a]\nbase_url = "http://h/v1?key=1"', "line 2.*query"),
    ('[models.a]\nbase_url = "http://h/v1#x"', "line 2.*fragment"),
    ('[models.a]\nbase_url = "http://h:99999/v1"', "line 2.*PORT"),
    ('[models.a]\nbase_url = "http://h /v1"', "line 2.*spaces"),
    ('[profiles.a]\nroot = "x"\nmax_cost = "0"', "line 3.*above \\$0"),
    ("# a\n[models]\na.window_tokens = 0", "line 3"),
    ('[models]\n"a" = 5', "line 2.*expected a table"),
    ("models = 5", "line 1: expected tables"),
    ("\n[prices.a]", "line 2: expected only tables .*found 'prices' at the top"),
    ("[models.a\n", "is not TOML.*line 1"),
    ('[profiles.a]\nroot = "x"\nmodel = "x"', "line 3.*unknown key 'model'; known are root, sub"),
    ('[profiles."a b"]\nroot = "x"', "line 1.*letters, digits"),
    ('[profiles.a]\nroot = "x"\nprompt_pack = "own"', "line 3.*expected one of default, small, frugal, found 'own'"),
    ('[profiles.a]\nroot = "x"\nmax_cost = 1.5', "line 3.*as a string such as"),
    ('[profiles.a]\nroot = "x"\nmax_cost = "ten"', "line 3.*amount in USD"),
    ('[profiles.a]\nroot = "x"\nmax_turns = 0', "line 3.*from 1 to 1,000"),
    ('[profiles.a]\nroot = "x"\ntimeout_s = nan', "line 3.*seconds"),
    ('[profiles.a]\nroot = "x"\ntimeout_s = "1h"', "line 3.*seconds"),
    ("[prompt_packs.a]\n", "line 1.*path is missing"),
    ('[prompt_packs.small]\npath = "x"', r"line 1.*other than those of the shipped packs \(default, small, frugal\)"),
    ('[prompt_packs.a]\npath = "none.toml"', r"line 2.*none\.toml cannot be read: No such file"),
]


@pytest.mark.parametrize(("text", "complaint"), MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    """What cannot be used is refused with the file, the line, the table and what was expected, in one line."""
    path = written(tmp_path, text)
    with pytest.raises(BadRequest, match=complaint) as refused:
        read_configuration(path)
    assert str(path) in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pack", "complaint"),
    [
        ("nonsense", "ours.toml is not TOML"),
        ("chunk_percent = 7", "needs all sections"),
        ('base = "defualt"', "expected a prompt pack out of"),
        ('base = "default"\n\nvoice = "loud"', r"ours\.toml, line 3: a prompt pack has no section 'voice'"),
        ('base = "default"\ncontract = """\na\n<<b>>\n"""', r"ours\.toml, line 2: nothing fills <<b>>"),
        ('base = "default"\nchunk_percent = 500', r"ours\.toml, line 2: chunk_percent must be between"),
        ('base = "default"\nname = "mine"', r"ours\.toml, line 2: expected the name 'ours'"),
    ],
)
def test_a_mistake_in_a_pack_is_named(tmp_path: Path, pack: str, complaint: str) -> None:
    """What is wrong in a pack's own file is told with both files and both lines."""
    path = written(tmp_path, '[prompt_packs.ours]\npath = "packs/ours.toml"\n', pack)
    with pytest.raises(BadRequest, match=complaint) as refused:
        read_configuration(path)
    assert f"{path}, line 2" in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, not UTF-8 and oversized files are told apart."""
    with pytest.raises(BadRequest, match=r"\(RLM_CONFIG\).*cannot be read"):
        read_configuration(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# a\n# \xe9\n")
    with pytest.raises(BadRequest, match=r"line 2: expected UTF-8, found the byte 0xe9"):
        read_configuration(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(BadRequest, match="the most that is read"):
        read_configuration(tmp_path / "large.toml")


@pytest.mark.anyio
async def test_the_line_that_is_proposed_works(tmp_path: Path) -> None:
    """The line in an `UnpricedModel` message can be pasted into the configuration file as it stands."""
    access = Access(
        openai_base_url="https://api.openai.com/v1",
        openai_api_key="sk-test",
        anthropic_base_url="https://api.anthropic.com",
    )
    async with Catalog(access=access, entries={}, entries_path=None, concurrency=1) as models:
        with pytest.raises(UnpricedModel) as refused:
            models.resolve("openai/my-own/model")
    line = str(refused.value).partition("such as: ")[2].partition(" Did you mean")[0]
    read = read_configuration(written(tmp_path, line))
    async with Catalog(access=access, entries=read.models, entries_path=read.path, concurrency=1) as models:
        assert models.resolve("openai/my-own/model").upstream_model == "my-own/model"


def test_the_documented_file_works(tmp_path: Path) -> None:
    """The examples in docs/settings.md are read as they stand."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text()
    example, pack = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    read = read_configuration(written(tmp_path, example, pack))
    assert (list(read.models), list(read.prompt_packs)) == (["local/qwen3"], ["ours"])
    assert list(read.profiles) == ["rlm/default", "rlm/fast", "rlm/deep", "rlm/auto", "deep"]
