"""The command line: what it prints and how it ends."""

import json

import cv2
import numpy as np
import pytest

from cxr_node.cli import main
from cxr_node.cli.phantom import phantom_dataset
from cxr_node.cli.send import parse_peer
from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from storage import Database, tokens

pytestmark = pytest.mark.requirement("SRS-CLI-002")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text("[node]\nprofile = 'triage'\n")
    return str(path)


def test_config_check_says_what_the_node_would_do(config, capsys):
    """An admin reads it before the first start."""
    assert main(["--config", config, "config", "check"]) == 0
    out = capsys.readouterr().out
    assert "pneumonia-adult" in out
    assert "CXR_NODE on 127.0.0.1:11112" in out


def test_config_check_names_a_slip_and_fails(tmp_path, capsys):
    """Exit status 2: the file, not the node."""
    path = tmp_path / "node.toml"
    path.write_text("[receive]\nprot = 1\n")
    assert main(["--config", str(path), "config", "check"]) == 2
    assert f"{path}: receive.prot: unknown key" in capsys.readouterr().err


def test_a_worklist_open_to_other_machines_is_a_mistake(tmp_path, capsys):
    """Whoever sets `never` on a laptop must not publish the ward with the next line."""
    path = tmp_path / "node.toml"
    path.write_text('[worklist]\nhost = "0.0.0.0"\nrequire_token = "never"\n')
    assert main(["--config", str(path), "config", "check"]) == 2
    assert "worklist.require_token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("reader = ['*']\nclient_secret_file = 'nowhere'", "client_secret_file"),
        ("", "nobody would have a role"),
    ],
)
def test_a_provider_nobody_could_sign_in_at_is_a_mistake(tmp_path, capsys, lines, told):
    """Better at the check than on the first morning."""
    path = tmp_path / "node.toml"
    path.write_text(f"[worklist.oidc]\nissuer = 'https://id.example'\nclient_id = 'node'\n{lines}\n")
    assert main(["--config", str(path), "config", "check"]) == 2
    assert told in capsys.readouterr().err
    path.write_text("[worklist.oidc]\nissuer = 'https://id.example'\nclient_id = 'node'\nreader = ['*']\n")
    assert main(["--config", str(path), "config", "check"]) == 0
    assert "or at https://id.example" in capsys.readouterr().out


def test_a_missing_model_is_named(tmp_path, capsys):
    """A node without its models must not look configured."""
    path = tmp_path / "node.toml"
    path.write_text("[analyze]\nmodels = ['nowhere']\n")
    assert main(["--config", str(path), "config", "check"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_token_is_printed_once_and_stored_as_its_hash(config, tmp_path, capsys):
    """The database alone must not open the node."""
    assert main(["--config", config, "token", "create", "ris", "--role", "service"]) == 0
    secret = capsys.readouterr().out.strip()
    database = Database(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    with database.read() as connection:
        found = tokens.find(connection, secret, now=utc_now())
    database.dispose()
    assert found is not None
    assert (found.name, found.role) == ("ris", "service")
    assert secret.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "var").glob("cxr-node.db*"))


@pytest.mark.parametrize(
    "text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:99999", "A" * 17 + "@h:1"]
)
def test_an_address_that_is_none_is_an_error(text):
    """AE@HOST:PORT, as every DICOM person writes it."""
    with pytest.raises(SettingsError, match="AE@HOST:PORT"):
        parse_peer(text)


def test_predict_prints_one_json_line_a_file(config, tmp_path, capsys):
    """DICOM by its header, pictures by the model named, anything else with its reason."""
    folder = tmp_path / "files"
    folder.mkdir()
    dataset = phantom_dataset(utc_now(), np.random.default_rng(1), opacity=0.5, accession_number="T")
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    dataset.BodyPartExamined = "HAND"
    dataset.save_as(folder / "b.dcm", enforce_file_format=True)
    (folder / "c.txt").write_text("no image")
    cv2.imwrite(str(folder / "d.png"), (dataset.pixel_array >> 4).astype(np.uint8))
    assert main(["--config", config, "predict", str(folder), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"].rpartition("/")[2] for line in lines] == ["a.dcm", "b.dcm", "c.txt", "d.png"]
    assert {"path", "model", "probability", "threshold", "flagged", "exclusion"} <= set(lines[0])
    assert lines[0]["model"] == "pneumonia-adult"
    assert lines[0]["flagged"] == (lines[0]["probability"] >= lines[0]["threshold"])
    assert [line["exclusion"] and line["exclusion"]["reason"] for line in lines[1:]] == [
        "body-part",
        "unreadable-dataset",
        "no-header",
    ]
    assert main(["--config", config, "predict", str(folder / "d.png"), "--model", "pneumonia-adult", "--json"]) == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["probability"] == pytest.approx(lines[0]["probability"], abs=0.02)


def test_a_path_that_does_not_exist_is_an_error(config, tmp_path, capsys):
    """A typing slip must not read as an empty result."""
    assert main(["--config", config, "predict", str(tmp_path / "nowhere")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
