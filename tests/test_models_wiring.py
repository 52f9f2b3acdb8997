"""What the configuration file names, against the models that there are."""

from pathlib import Path

import pytest

from service.configuration.file import read_configuration
from service.errors import BadRequest
from service.settings import read_settings
from service.wiring.models import open_catalog


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[profiles.a]\n\nroot = "nobody/x"', r'line 3: \[profiles\."a"\] root: no provider is known for'),
        (
            '[profiles.a]\nroot = "scripted/root"\nsub = "openai/of-no-price"',
            r'line 3: \[profiles\."a"\] sub: .*no price',
        ),
        ('[models.m]\nfallbacks = ["scripted/root", "scripted/nothing"]', r'line 2: \[models\."m"\] fallbacks: '),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    """A model that a profile or a list of fallbacks names is looked up when the file is read, not when it is needed."""
    path = tmp_path / "rlm.toml"
    path.write_text(text)
    settings = read_settings({"RLM_CONFIG": str(path), "RLM_DATA_DIR": str(tmp_path)})
    with pytest.raises(BadRequest, match=complaint) as refused:
        open_catalog(settings, read_configuration(path))
    assert str(path) in str(refused.value)


def test_a_key_is_not_needed_to_read_a_name(tmp_path: Path) -> None:
    """A model whose key is not set is a model all the same: only who uses it needs the key."""
    path = tmp_path / "rlm.toml"
    path.write_text('[profiles.a]\nroot = "openai/gpt-5-mini"\nsub = "litellm/gemini/gemini-2.5-pro"')
    settings = read_settings({"RLM_CONFIG": str(path), "RLM_DATA_DIR": str(tmp_path)})
    open_catalog(settings, read_configuration(path))


@pytest.mark.parametrize("setting", ["RLM_ROOT_MODEL", "RLM_SUB_MODEL"])
def test_a_model_that_a_setting_names_is_looked_up_at_start(tmp_path: Path, setting: str) -> None:
    """A model of no provider stops the start with the name of its setting; one without its key does not."""
    for model in ("nobody/x", "openai/of-no-price"):
        settings = read_settings({setting: model, "RLM_DATA_DIR": str(tmp_path)})
        with pytest.raises(BadRequest, match=f"^{setting}: "):
            open_catalog(settings, read_configuration(None))
    settings = read_settings({setting: "openai/gpt-5-mini", "RLM_DATA_DIR": str(tmp_path)})
    open_catalog(settings, read_configuration(None))
