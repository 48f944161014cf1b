"""DICOM TLS of the Storage SCP as DCMTK and openssl see it: profiles, versions, suites, certificates, bound callers."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from cxr_node.clock import utc_now
from cxr_node.receive.callers import OBEYED_WITHIN_S
from storage import callers, tables
from tests.builders import make_radiograph_dataset, to_part_10
from tests.certificates import Authority, Issued
from tests.cxr_node.receive.conftest import Receiver
from tests.system.conftest import wait_until

pytestmark = pytest.mark.peer("echoscu", "storescu", "openssl")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Issued:
    # RSA: DCMTK's profiles and the retired ones name suites of RSA first.
    return authority.issue("node", kind="rsa")


@pytest.fixture(scope="module")
def modality(authority: Authority) -> Issued:
    return authority.issue("cr-room-1", dns=("cr1.hospital.example",))


@pytest.fixture
def start(start_receiver: Callable[..., Receiver], authority: Authority, node: Issued) -> Callable[..., Receiver]:
    """Start a receiver with TLS and mutual certificates."""

    def make(**overrides: str) -> Receiver:
        files = {"certificate": node.certificate, "key": node.key, "ca": authority.ca}
        tls = {f"receive__tls__{name}": str(path) for name, path in files.items()}
        return start_receiver(**{**tls, **overrides})

    return make


def tls_options(issued: Issued | None, ca: Path, *options: str) -> list[str]:
    own = ["+tla"] if issued is None else ["+tls", str(issued.key), str(issued.certificate)]
    return [*own, "+cf", str(ca), *options]


def run(
    program: str, receiver: Receiver, *options: str, calling: str = "CR_ROOM_1", files: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    # Its own -to counts for the connection only; -ta for what an association waits for.
    waits = ["-to", "20", "-ta", "20", "-td", "20"]
    return subprocess.run(
        [program, "-v", *waits, "-aet", calling, "-aec", "CXR_NODE", *options, "127.0.0.1", str(receiver.port)]
        + [str(file) for file in files],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=90,
    )


def rejected(receiver: Receiver) -> list[callers.Rejected]:
    with receiver.database.read() as connection:
        return callers.rejected(connection)


@pytest.mark.requirement("SRS-TLS-020")
@pytest.mark.parametrize("profile", ["--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_an_image_comes_in_by_every_profile_of_bcp_195(start, authority, modality, tmp_path, profile):
    """What PS3.15 names, as the reference implementation speaks it."""
    receiver = start()
    dataset = make_radiograph_dataset()
    file = tmp_path / "image.dcm"
    file.write_bytes(to_part_10(dataset))
    done = run("storescu", receiver, *tls_options(modality, authority.ca, profile), "-xe", files=(file,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1


@pytest.mark.requirement("SRS-TLS-020")
@pytest.mark.parametrize("profile", ["--profile-aes", "--profile-null"])
def test_the_retired_profiles_are_refused(start, authority, modality, profile):
    """AES-CBC without forward secrecy, and no encryption at all."""
    receiver = start()
    done = run("echoscu", receiver, *tls_options(modality, authority.ca, profile))
    assert done.returncode != 0
    assert "TLS" in done.stdout + done.stderr
    assert run("echoscu", receiver, *tls_options(modality, authority.ca)).returncode == 0


@pytest.mark.requirement("SRS-TLS-021")
def test_who_shows_no_certificate_or_one_that_does_not_hold_is_refused_and_listed(start, authority, modality, tmp_path):
    """Mutual certificates are the default; an administrator sees that somebody stood at the door, and why."""
    receiver = start()
    stranger = Authority(tmp_path / "stranger").issue("stranger")
    expired = authority.issue("expired", days=-1)
    for issued in (None, stranger, expired):
        done = run("echoscu", receiver, *tls_options(issued, authority.ca))
        assert done.returncode != 0, (issued, done.stdout + done.stderr)
    assert run("echoscu", receiver, *tls_options(modality, authority.ca)).returncode == 0
    found = wait_until(lambda: [item for item in rejected(receiver) if item.attempts == 3], 20, "three are listed")
    assert {(item.reason, item.calling_ae_title, item.peer_address) for item in found} == {("tls", "", "127.0.0.1")}
    with receiver.database.read() as connection:
        events = list(connection.execute(select(tables.audit_events.c.event, tables.audit_events.c.detail)))
    assert ("association_refused", "tls") in {(event, detail.get("reason")) for event, detail in events}


@pytest.mark.requirement("SRS-TLS-021")
def test_plain_dicom_is_refused_on_a_tls_port(start, authority, modality):
    """And the port goes on."""
    receiver = start()
    assert run("echoscu", receiver).returncode != 0
    assert run("echoscu", receiver, *tls_options(modality, authority.ca)).returncode == 0


@pytest.mark.requirement("SRS-TLS-021")
def test_a_site_may_waive_certificates_of_callers(start, authority):
    """Encrypted is better than plain, where a device can do no more."""
    receiver = start(receive__tls__require_client_certificate="false")
    assert run("echoscu", receiver, *tls_options(None, authority.ca)).returncode == 0


@pytest.mark.requirement("SRS-TLS-020")
def test_openssl_sees_versions_and_suites_of_bcp_195_only(start, authority, modality):
    """As a scanner of the hospital's security office does."""
    receiver = start()

    def speaks(*options: str) -> str:
        own = ["-CAfile", str(authority.ca), "-cert", str(modality.certificate), "-key", str(modality.key)]
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{receiver.port}", *own, *options],
            input="",
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = re.search(r"New, (\S+), Cipher is (\S+)", done.stdout)
        assert found is not None, done.stdout + done.stderr
        return found[2] if found[2] != "(NONE)" else ""

    weak = "DEFAULT:@SECLEVEL=0"
    assert speaks("-tls1_3").startswith("TLS_")
    assert speaks("-tls1_2").startswith("ECDHE-RSA-")
    assert speaks("-tls1_1", "-cipher", weak) == ""
    assert speaks("-tls1", "-cipher", weak) == ""
    for suite in ("AES256-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES256-GCM-SHA384"):
        assert speaks("-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0") == "", suite


@pytest.mark.requirement("SRS-TLS-005")
def test_connections_that_say_nothing_hold_up_nobody(start, authority, modality):
    """The library shakes hands in its accept loop: one idle connection would stop all others."""
    receiver = start()
    idle = [socket.create_connection(("127.0.0.1", receiver.port), timeout=30) for _ in range(5)]
    try:
        assert run("echoscu", receiver, *tls_options(modality, authority.ca)).returncode == 0
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.requirement("SRS-TLS-011")
def test_a_name_bound_to_a_certificate_is_refused_to_every_other(start, authority, modality):
    """Any device of the hospital has a certificate of its authority; that makes it no other device."""
    other = authority.issue("ct-scanner")
    first = '{ae_title="CR_ROOM_1", certificate="CR1.hospital.example"}'
    second = f'{{ae_title="CR_ROOM_2", certificate="{":".join(re.findall("..", other.fingerprint.upper()))}"}}'
    receiver = start(caller=f'[{first}, {second}, {{ae_title="*"}}]')
    for issued, calling, is_let_in in (
        (modality, "CR_ROOM_1", True),
        (other, "CR_ROOM_1", False),
        (other, "CR_ROOM_2", True),
        (modality, "CR_ROOM_2", False),
        (other, "CR_ROOM_3", True),
    ):
        done = run("echoscu", receiver, *tls_options(issued, authority.ca), calling=calling)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is is_let_in, (calling, said)
        assert is_let_in or "Calling AE Title Not Recognized" in said
    rows = wait_until(lambda: len(rejected(receiver)) == 2 and rejected(receiver), 20, "both are listed")
    found = {item.calling_ae_title: (item.reason, item.certificate) for item in rows}
    assert found == {
        "CR_ROOM_1": ("certificate", f"{other.fingerprint} (ct-scanner)"),
        "CR_ROOM_2": ("certificate", f"{modality.fingerprint} (cr-room-1)"),
    }
    with receiver.database.read() as connection:
        details = list(connection.execute(select(tables.audit_events.c.detail)).scalars())
    assert f"{other.fingerprint} (ct-scanner)" in {detail.get("certificate") for detail in details}


@pytest.mark.requirement("SRS-TLS-011")
def test_without_tls_a_bound_name_is_refused(start_receiver):
    """It could show nothing."""
    receiver = start_receiver(caller='[{ae_title="CR_ROOM_1", certificate="cr1.hospital.example"}, {ae_title="*"}]')
    assert run("echoscu", receiver).returncode != 0
    assert run("echoscu", receiver, calling="CR_ROOM_2").returncode == 0


@pytest.mark.requirement("SRS-TLS-012")
def test_a_caller_that_an_admin_bound_is_bound_everywhere(start, authority, modality):
    """Also where node.toml lets everybody in: what the page says about a name counts."""
    other = authority.issue("ct-scanner")
    receiver = start()
    assert run("echoscu", receiver, *tls_options(other, authority.ca)).returncode == 0
    with receiver.database.begin() as connection:
        callers.allow(connection, "CR_ROOM_1", "127.0.0.1", certificate=modality.fingerprint, by="kim", now=utc_now())

    def is_refused() -> bool:
        return run("echoscu", receiver, *tls_options(other, authority.ca)).returncode != 0

    wait_until(is_refused, 20 + OBEYED_WITHIN_S, "another certificate is refused", every_s=0.2)
    assert run("echoscu", receiver, *tls_options(modality, authority.ca)).returncode == 0


@pytest.mark.requirement("SRS-TLS-004")
def test_a_renewed_certificate_and_authority_count_without_a_restart(start_receiver, tmp_path):
    """Both sides change in one night: the node's certificate, and who it trusts."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    first = old.issue("node")
    shown = {name: tmp_path / name for name in ("node.pem", "node.key", "ca.pem")}

    def put(issued: Issued, ca: Path) -> None:
        for source, target in zip((issued.certificate, issued.key, ca), shown.values(), strict=True):
            shutil.copy(source, tmp_path / "part")
            (tmp_path / "part").chmod(0o600)
            (tmp_path / "part").replace(target)

    put(first, old.ca)
    receiver = start_receiver(
        receive__tls__certificate=str(shown["node.pem"]),
        receive__tls__key=str(shown["node.key"]),
        receive__tls__ca=str(shown["ca.pem"]),
    )
    before, after = old.issue("cr"), new.issue("cr")
    assert run("echoscu", receiver, *tls_options(before, old.ca)).returncode == 0
    put(new.issue("node"), new.ca)

    def is_renewed() -> bool:
        return run("echoscu", receiver, *tls_options(after, new.ca)).returncode == 0

    wait_until(is_renewed, 30, "the new files are in use", every_s=0.2)
    assert run("echoscu", receiver, *tls_options(before, old.ca)).returncode != 0
