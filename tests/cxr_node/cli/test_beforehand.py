"""What a command refuses before it begins, and the doctor's look at the audit repository."""

import sqlite3

import pytest

from cxr_node.cli import main
from cxr_node.cli.doctor import _audit_repository, _backup
from cxr_node.settings import load_settings
from cxr_node.upkeep.syslog import RepositoryUnavailable
from tests.certificates import Authority
from tests.cxr_node.upkeep.syslog_peer import SyslogPeer

SERVE_ENDS = "the supervisor began"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that runs a command on a data folder; a supervisor that begins says so and ends."""
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "var"\n')

    def began(*_arguments):
        raise RuntimeError(SERVE_ENDS)

    monkeypatch.setattr("cxr_node.cli.serve.Supervisor.run", began)
    return lambda *words: main(["--config", str(config), *words])


@pytest.mark.requirement("SRS-STO-901")
def test_a_database_that_was_there_is_not_made_anew(site, tmp_path, capsys):
    """A disk that was not mounted, a file that was deleted: an empty node would begin, and nobody would know."""
    assert site("token", "create", "ris", "--role", "service") == 0
    assert site("token", "list") == 0
    path = tmp_path / "var" / "cxr-node.db"
    path.rename(tmp_path / "away")
    assert site("token", "list") == 1
    told = capsys.readouterr().err
    assert str(path) in told
    assert str(tmp_path / "var" / "run" / "database") in told
    assert site("receive") == 1
    assert site("serve") == 1
    assert not path.exists()
    (tmp_path / "away").rename(path)
    assert site("token", "list") == 0
    assert "ris" in capsys.readouterr().out


@pytest.mark.requirement("SRS-STO-901")
def test_who_wants_an_empty_database_removes_the_note(site, tmp_path):
    """The error names it: no other way should be needed."""
    assert site("token", "create", "ris", "--role", "service") == 0
    assert site("token", "list") == 0
    for file in (tmp_path / "var").glob("cxr-node.db*"):
        file.unlink()
    assert site("token", "list") == 1
    (tmp_path / "var" / "run" / "database").unlink()
    assert site("token", "list") == 0


@pytest.mark.requirement("SRS-STO-901")
def test_a_database_elsewhere_is_another_one(site, tmp_path, monkeypatch):
    """A site that moves its database to another disk says so in node.toml."""
    assert site("token", "create", "ris", "--role", "service") == 0
    assert site("token", "list") == 0
    monkeypatch.setenv("CXR_NODE__NODE__DATABASE", f"sqlite:///{tmp_path / 'other.db'}")
    assert site("token", "list") == 0
    with sqlite3.connect(tmp_path / "other.db") as other:
        assert other.execute("SELECT count(*) FROM tokens").fetchone() == (0,)


@pytest.mark.requirement("SRS-STO-901")
def test_a_stage_of_a_supervisor_never_makes_a_database(site, tmp_path, capsys):
    """The supervisor has made it: what is not there was lost while the node ran, note or not."""
    assert site("upkeep", "--parent", "1") == 1
    assert "is not there any more" in capsys.readouterr().err
    assert not (tmp_path / "var" / "cxr-node.db").exists()


@pytest.mark.requirement("SRS-CLI-902")
@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (None, 0o600, "cannot be read"),
        ("{}", 0o600, "expected version, current and keys"),
        ("no key", 0o600, "is no JSON"),
        ("{}", 0o644, "mode 644, expected 600"),
    ],
)
def test_serve_says_once_what_is_wrong_with_the_key_file(site, tmp_path, monkeypatch, capsys, content, mode, told):
    """Each stage would die of it, be started again, and say it for ever in a log."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    monkeypatch.setenv("CXR_NODE__NODE__ENCRYPTION_KEY_FILE", str(path))
    assert site("serve") == 1
    error = capsys.readouterr().err
    assert error.startswith("cxr-node serve: encryption_key_file")
    assert told in error


@pytest.mark.requirement("SRS-CLI-902")
def test_serve_begins_with_a_key_file_that_is_one(site, tmp_path, monkeypatch):
    """Also the first time, when there is no database yet."""
    monkeypatch.setenv("CXR_NODE__NODE__ENCRYPTION_KEY_FILE", str(tmp_path / "keys.json"))
    assert site("keys", "new") == 0
    with pytest.raises(RuntimeError, match=SERVE_ENDS):
        site("serve")


def _settings(tmp_path, peer_port, **audit):
    told = {"syslog_host": "localhost", "syslog_port": str(peer_port), **audit}
    given = {f"CXR_NODE__AUDIT__{key.upper()}": str(value) for key, value in told.items()}
    return load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path), **given})


@pytest.mark.requirement("SRS-CLI-903")
def test_the_doctor_goes_as_far_as_the_first_audit_message(tmp_path):
    """The repository's certificate and its opinion of the node's are known before an entry waits for them."""
    authority = Authority(tmp_path / "ca")
    theirs, ours = authority.issue("repository", dns=("localhost",)), authority.issue("node")
    peer = SyslogPeer((theirs.certificate, theirs.key), ca=authority.ca)
    try:
        files = {"tls__ca": authority.ca, "tls__certificate": ours.certificate, "tls__key": ours.key}
        assert "trusted" in _audit_repository(_settings(tmp_path, peer.port, **files))
        assert peer.messages() == []
        with pytest.raises(RepositoryUnavailable):  # the repository wants a certificate
            _audit_repository(_settings(tmp_path, peer.port, tls__ca=authority.ca))
        other = Authority(tmp_path / "other")
        with pytest.raises(RepositoryUnavailable, match="certificate is not accepted"):
            _audit_repository(_settings(tmp_path, peer.port, **{**files, "tls__ca": other.ca}))
    finally:
        peer.close()
    with pytest.raises(RepositoryUnavailable, match="localhost"):
        _audit_repository(_settings(tmp_path, peer.port, **files))


@pytest.mark.requirement("SRS-CLI-903")
def test_the_doctor_names_the_keys_of_what_is_not_set_up(tmp_path):
    """A sentence without the key to set sends the reader through 200 of them."""
    settings = load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path)})
    assert "audit.syslog_host" in _audit_repository(settings)
    assert "upkeep.backup_dir" in _backup(settings)
