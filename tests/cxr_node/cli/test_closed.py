"""What doctor and `config check` say of modes, TLS files and the user."""

import os
from pathlib import Path

import pytest

from cxr_node.access import shown_url
from cxr_node.cli import closed, main, privilege
from cxr_node.errors import SettingsError
from cxr_node.settings import Settings, load_settings
from tests.certificates import Authority


def settings_of(tmp_path: Path, **overrides: str) -> Settings:
    data = tmp_path / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    environment = {f"CXR_NODE__{key.upper()}": value for key, value in overrides.items()}
    return load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(data), **environment})


@pytest.mark.requirement("SRS-TLS-033")
def test_a_folder_or_a_secret_that_others_may_read_is_named(tmp_path, monkeypatch):
    """A data folder made before, by hand or by another release, keeps the mode it has."""
    monkeypatch.setattr(closed, "root_trouble", lambda: "")
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o640)
    destination = f'[{{name="web", kind="stow-rs", url="http://127.0.0.1/rs", secret_file="{secret}"}}]'
    settings = settings_of(tmp_path, destination=destination)
    assert closed.modes(settings) == "folders and secrets are the node's alone"
    monkeypatch.setattr(closed, "root_trouble", lambda: "runs as root")
    assert closed.modes(settings) == "folders and secrets are the node's alone; this command runs as root"
    secret.chmod(0o644)
    settings.data_dir.chmod(0o750)
    with pytest.raises(closed.TooOpen) as found:
        closed.modes(settings)
    assert f"{settings.data_dir} (mode 0750)" in str(found.value)
    assert f"{secret} (mode 0644)" in str(found.value)
    assert "s3cret" not in str(found.value)


@pytest.mark.requirement("SRS-TLS-033")
def test_root_is_warned_of_except_in_a_container(monkeypatch, tmp_path):
    """A fault in a decoder of images would have the whole machine; in a container there is no other user."""
    monkeypatch.setattr(privilege, "_IN_CONTAINER", (tmp_path / "absent",))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "runs as root" in privilege.root_trouble()
    (tmp_path / "absent").touch()
    assert privilege.root_trouble() == ""
    (tmp_path / "absent").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privilege.root_trouble() == ""


@pytest.mark.requirement("SRS-TLS-031")
def test_tls_files_are_checked_as_the_node_would_use_them(tmp_path):
    """Of listeners and of calls, with the section that names them."""
    authority = Authority(tmp_path / "authority")
    own, old = authority.issue("node"), authority.issue("old", days=-1)
    worklist = {"worklist__tls__certificate": str(own.certificate), "worklist__tls__key": str(own.key)}

    def destination(issued) -> str:
        files = f'{{certificate="{issued.certificate}", key="{issued.key}", ca="{authority.ca}"}}'
        return f'[{{name="pacs", ae_title="PACS", host="127.0.0.1", tls={files}}}]'

    told = closed.tls(settings_of(tmp_path, destination=destination(own), **worklist))
    assert told == "1 listeners and 1 ways out by TLS 1.2 or newer"
    with pytest.raises(SettingsError, match=r"destination pacs: tls: certificate .*old\.pem expired on"):
        closed.tls(settings_of(tmp_path, destination=destination(old)))
    own.key.chmod(0o644)
    with pytest.raises(SettingsError, match=r"worklist\.tls: key .*node\.key can be read or changed by others"):
        closed.tls(settings_of(tmp_path, **worklist))


@pytest.mark.requirement("SRS-TLS-031")
def test_a_name_bound_to_a_certificate_without_tls_is_told(tmp_path):
    """It would be refused for ever, and nobody would see why."""
    with pytest.raises(closed.TooOpen, match="CT: bound to a certificate"):
        closed.tls(settings_of(tmp_path, caller='[{ae_title="CT", certificate="ct1.example"}]'))
    with pytest.raises(SettingsError, match=r"caller\.certificate of CT: .*64 hexadecimal digits"):
        closed.tls(settings_of(tmp_path, caller=f'[{{ae_title="CT", certificate="{"ab" * 20}"}}]'))


@pytest.mark.requirement("SRS-TLS-032")
def test_every_command_makes_files_for_its_user_only(tmp_path, monkeypatch, capsys):
    """`token create` may be what makes the database."""
    monkeypatch.setenv("CXR_NODE__NODE__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    os.umask(0)
    assert main(["token", "create", "tester", "--role", "service"]) == 0
    made = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert any(path.name == "cxr-node.db" for path in made)
    assert not [path for path in made if path.stat().st_mode & 0o077]


@pytest.mark.requirement("SRS-LOG-102")
@pytest.mark.parametrize("command", [["config", "check"], ["token", "list"], ["serve"], ["doctor"]])
def test_a_password_in_the_address_of_the_database_is_printed_by_no_command(tmp_path, monkeypatch, capfd, command):
    """Neither where it is sound and nobody answers, nor where it cannot be read."""
    monkeypatch.setenv("CXR_NODE__NODE__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for address in (
        "postgresql+psycopg://node:zqxpassword@127.0.0.1:1/cxr",
        "postgresql://node:zqxpassword@127.0.0.1:none/cxr",
        "mysql://node:zqxpassword@127.0.0.1/cxr",
        "zqxpassword",
    ):
        if command == ["doctor"] and address.startswith("postgresql+"):
            continue  # it would test models for minutes first
        monkeypatch.setenv("CXR_NODE__NODE__DATABASE", address)
        try:
            main(command)
        except Exception as error:  # what Python would print of it
            raise AssertionError(f"{command} ended with {type(error).__name__}: {error}") from error
        told = capfd.readouterr()
        assert "zqxpassword" not in told.out + told.err


@pytest.mark.requirement("SRS-LOG-102")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:zqxpassword@pacs.example:8443/rs?token=zqxtoken#zqx", "https://pacs.example:8443/rs"),
        ("https://zqxtoken@pacs.example", "https://pacs.example"),
        ("https://user:zqx@password@pacs.example/rs", "https://pacs.example/rs"),
        ("http://[zqx", "(no address)"),
    ],
)
def test_an_address_is_shown_without_what_may_let_somebody_in(url, shown):
    """Where a hook takes no header, its key stands in the address."""
    assert shown_url(url) == shown
