"""node.toml as a person edits it: sound as shipped, and every slip named."""

import re
import tomllib

import pytest

from cxr_node.errors import SettingsError
from cxr_node.settings import Settings, _Section, load_settings
from tests.conftest import ROOT

pytestmark = pytest.mark.requirement("SRS-SET-001")


def _keys(model: type[_Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        if name == "base_dir":
            continue
        inner = [
            kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)
        ]
        section = next((kind for kind in inner if issubclass(kind, _Section)), None)
        keys += _keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return keys


def test_the_shipped_file_is_the_defaults_written_out():
    """A reader of node.toml sees what the node does without it."""
    shipped = load_settings(ROOT / "node.toml", {})
    assert shipped.model_dump(exclude={"base_dir"}) == load_settings(None, {}).model_dump(exclude={"base_dir"})


def test_the_shipped_file_names_every_key():
    """A key that only the code knows is a key nobody can set."""
    text = (ROOT / "node.toml").read_text()
    uncommented = tomllib.loads(re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", text))
    for key in _keys(Settings):
        value = uncommented
        for part in key.split("."):
            table = value[0] if isinstance(value, list) else value
            assert part in table, key
            value = table[part]


def test_the_readme_table_names_every_key_with_its_meaning():
    """The table is the admin's reference; it may not drift from the code."""
    readme = (ROOT / "README.md").read_text().partition("\n## node.toml\n")[2]
    rows = dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| [^|]* \| (.*) \|$", readme, re.MULTILINE))
    assert sorted(rows) == sorted(_keys(Settings))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[receive]\nprot = 1\n", "receive.prot: unknown key"),
        ("[receive]\nport = 70000\n", "receive.port: Input should be less than or equal to 65535, found 70000"),
        ("[receive]\nport = 'x'\n", "receive.port"),
        ("[recieve]\n", "recieve: unknown key"),
        ("[node]\nprofile = 'clinical'\n", "node.profile: Input should be 'triage' or 'research', found 'clinical'"),
        ("[[destination]]\nname = 'pacs'\n", "a c-store destination needs ae_title and host"),
        ("[node\n", "is not valid TOML"),
        ("base_dir = '/'\n", "base_dir: unknown key"),
    ],
)
def test_a_slip_is_an_error_that_names_file_key_and_expectation(tmp_path, text, expected):
    """An admin repairs it without reading code."""
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_the_environment_overrides_keys_and_lists(tmp_path):
    """A container sets what differs and mounts the rest."""
    settings = load_settings(
        ROOT / "node.toml",
        {
            "CXR_NODE__RECEIVE__PORT": "11200",
            "CXR_NODE__RECEIVE__TLS__CA": "ca.pem",
            "CXR_NODE__ANALYZE__MODELS": '["pneumonia-adult"]',
            "CXR_NODE__DESTINATION": '[{"name": "out", "kind": "folder", "path": "out"}]',
            "UNRELATED": "1",
        },
    )
    assert settings.receive.port == 11200
    assert settings.receive.tls.ca == "ca.pem"
    assert settings.analyze.models == ("pneumonia-adult",)
    assert settings.destination[0].path == "out"


def test_paths_resolve_against_the_file(tmp_path):
    """A service manager starts the node from anywhere."""
    path = tmp_path / "node.toml"
    path.write_text("[node]\ndata_dir = 'data'\n")
    assert load_settings(path, {}).data_dir == tmp_path / "data"


def test_an_unknown_variable_is_named():
    """A misspelt override must not be a silent default."""
    with pytest.raises(SettingsError, match="CXR_NODE__PORT"):
        load_settings(None, {"CXR_NODE__PORT": "1"})


def test_a_password_in_an_address_is_not_printed_with_a_slip(tmp_path):
    """The message goes to a console, a journal, a ticket."""
    path = tmp_path / "node.toml"
    path.write_text("[worklist]\npublic_url = 'https://admin:hunter2@cxr.example/page'\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {})
    assert "worklist.public_url" in str(caught.value)
    assert "hunter2" not in str(caught.value)
