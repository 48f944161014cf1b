"""What is spoken, with which files, how long it may take to say so, and who is at the other end."""

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cxr_node.access import CallerRow, certificate_name, refusal_of
from cxr_node.errors import SettingsError
from cxr_node.settings import ServerTls, Tls
from cxr_node.tls import (
    LiveContext,
    ServerFiles,
    client_context,
    is_of_certificate,
    listener,
    server_context,
    shake_hands,
    shown_by,
    trouble_of,
)
from tests.certificates import Authority, Issued


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Issued:
    return authority.issue("node", dns=("node.example",))


def files_of(issued: Issued, ca: Path | None = None, **more: object) -> ServerFiles:
    return ServerFiles("receive.tls", issued.certificate, issued.key, ca, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def shaking(context: ssl.SSLContext, within_s: float = 20.0) -> Iterator[tuple[socket.socket, list, threading.Thread]]:
    """Yield a client's socket whose other end shakes hands in a thread, and the list its outcome is put into."""
    ours, theirs = socket.socketpair()
    outcome: list = []

    def serve() -> None:
        try:
            outcome.append(shake_hands(context, ours, within_s=within_s))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield theirs, outcome, thread
    finally:
        theirs.close()
        thread.join(30)
        for item in outcome:
            if isinstance(item, ssl.SSLSocket):
                item.close()


def spoken(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """Return version and suite that the two agree on."""
    with (
        shaking(server) as (plain, outcome, thread),
        client.wrap_socket(plain, server_hostname="node.example") as secured,
    ):
        thread.join(30)
        if not isinstance(outcome[0], ssl.SSLSocket):
            raise outcome[0]
        cipher = secured.cipher()
        assert cipher is not None
        return str(secured.version()), cipher[0]


def open_client(**versions: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks anything and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, version in versions.items():
        setattr(context, name, version)
    return context


@pytest.mark.requirement("SRS-TLS-001")
def test_tls_1_3_is_spoken_where_both_can(node, authority):
    """PS3.15 B.12: a server prefers TLS 1.3 where the client offers it."""
    context = server_context(files_of(node))
    assert spoken(context, client_context({"ca": authority.ca}))[0] == "TLSv1.3"


@pytest.mark.requirement("SRS-TLS-001")
@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"])
def test_tls_1_2_is_spoken_with_the_suites_of_bcp_195(node, suite):
    """RFC 9325 4.2 recommends these; a modality of ten years ago has no TLS 1.3."""
    client = open_client(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(suite)
    assert spoken(server_context(files_of(node)), client) == ("TLSv1.2", suite)


@pytest.mark.requirement("SRS-TLS-001")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(node, version):
    """RFC 8996 forbids them."""
    client = open_client(minimum_version=version, maximum_version=version)
    with pytest.raises(OSError, match=r"UNSUPPORTED_PROTOCOL|unsupported|VERSION|version"):
        spoken(server_context(files_of(node)), client)


@pytest.mark.requirement("SRS-TLS-001")
@pytest.mark.parametrize(
    "suite", ["AES128-GCM-SHA256", "AES128-SHA", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "NULL-SHA256"]
)
def test_suites_without_forward_secrecy_or_authenticated_encryption_are_refused(authority, suite):
    """The retired DICOM profiles Basic and AES name some of them."""
    issued = authority.issue("rsa", kind="rsa")
    client = open_client(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(f"{suite}:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"NO_SHARED_CIPHER|HANDSHAKE_FAILURE"):
        spoken(server_context(files_of(issued)), client)


@pytest.mark.requirement("SRS-TLS-001")
def test_a_site_can_ask_for_tls_1_3_both_ways(node, authority):
    """node.tls_minimum = "1.3" holds for listeners and for calls."""
    old = open_client(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(OSError):
        spoken(server_context(files_of(node, minimum="1.3")), old)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.maximum_version = ssl.TLSVersion.TLSv1_2
    own.load_cert_chain(*node.pair)
    with pytest.raises(OSError):
        spoken(own, client_context({"ca": authority.ca}, minimum="1.3"))
    assert spoken(own, client_context({"ca": authority.ca}))[0] == "TLSv1.2"


@pytest.mark.requirement("SRS-TLS-001")
def test_nothing_is_compressed_renegotiated_or_handed_out_to_resume(node, authority):
    """Compression leaks (RFC 9325 3.3), renegotiation is how a handshake is made to be done again and again, and a
    ticket would let somebody back in who has no certificate any more."""
    with (
        shaking(server_context(files_of(node))) as (plain, outcome, thread),
        client_context({"ca": authority.ca}).wrap_socket(plain, server_hostname="node.example") as secured,
    ):
        thread.join(30)
        outcome[0].sendall(b"x")
        assert secured.recv(1) == b"x"
        assert secured.compression() is None
        assert secured.session is None or not secured.session.has_ticket
    assert server_context(files_of(node)).options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.requirement("SRS-TLS-002")
@pytest.mark.parametrize("name", ["other.example", "127.0.0.9"])
def test_who_is_called_must_be_named_by_its_certificate(node, authority, name):
    """Any certificate of the same authority would do otherwise."""
    with (
        shaking(server_context(files_of(node))) as (plain, _, _thread),
        pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)mismatch|not valid for"),
    ):
        client_context({"ca": authority.ca}).wrap_socket(plain, server_hostname=name)


@pytest.mark.requirement("SRS-TLS-002")
def test_who_is_called_must_be_signed_and_of_today(node, authority, tmp_path):
    """A certificate of another authority, or of last year, is refused by the caller."""
    stranger = Authority(tmp_path / "stranger")
    with (
        shaking(server_context(files_of(node))) as (plain, _, _thread),
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        client_context({"ca": stranger.ca}).wrap_socket(plain, server_hostname="node.example")
    expired = authority.issue("expired", dns=("node.example",), days=-1)
    plain_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    plain_server.load_cert_chain(*expired.pair)
    with shaking(plain_server) as (plain, _, _thread), pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        client_context({"ca": authority.ca}).wrap_socket(plain, server_hostname="node.example")


def _not_pem(path: Path) -> None:
    path.write_text("this is no certificate")


def _absent(path: Path) -> None:
    path.unlink()


@pytest.mark.requirement("SRS-TLS-003")
@pytest.mark.parametrize(
    ("which", "spoil", "sentence"),
    [
        ("certificate", _absent, "certificate {} cannot be read: No such file"),
        ("certificate", _not_pem, "certificate {} holds no certificate in PEM form"),
        ("key", _absent, "key {} cannot be read: No such file"),
        ("key", _not_pem, "key {} holds no private key in PEM form"),
        ("key", lambda path: path.chmod(0o604), "key {} can be read or changed by others (mode 0604)"),
        ("key", lambda path: path.chmod(0o660), "key {} can be read or changed by others (mode 0660)"),
        ("ca", _absent, "ca {} cannot be read: No such file"),
        ("ca", _not_pem, "ca {} holds no certificate in PEM form"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_what_is_wrong(tmp_path, which, spoil, sentence):
    """Told at the start, in a sentence, and not at three in the morning by a sender."""
    authority = Authority(tmp_path)
    issued = authority.issue("node")
    files = files_of(issued, authority.ca)
    path = getattr(files, which)
    spoil(path)
    with pytest.raises(SettingsError) as found:
        server_context(files)
    assert sentence.format(path) in str(found.value)
    assert str(found.value).startswith("receive.tls: ")


@pytest.mark.requirement("SRS-TLS-003")
def test_a_certificate_is_refused_outside_of_its_time_without_its_key_or_with_a_locked_one(tmp_path):
    """None of them could serve; an authority that expired lets nobody in."""
    authority = Authority(tmp_path)
    for name, made, sentence in (
        ("old", authority.issue("old", days=-1), "old.pem expired on "),
        ("new", authority.issue("new", since_days=-1), "new.pem is not valid before "),
        ("locked", authority.issue("locked", passphrase=b"secret"), "locked.key is locked with a passphrase"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            server_context(files_of(made)), name
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(SettingsError, match=r"other\.key is not the key of certificate .*one\.pem"):
        server_context(ServerFiles("worklist.tls", one.certificate, other.key))
    gone = authority.own(not_after=datetime.now(UTC) - timedelta(days=1))
    authority.ca.write_bytes(gone.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(SettingsError, match=r"every certificate of ca .*ca\.pem has expired"):
        server_context(files_of(one, authority.ca))


@pytest.mark.requirement("SRS-TLS-003")
def test_a_group_may_read_a_key(tmp_path):
    """That is how the user of a service gets at keys that root keeps."""
    issued = Authority(tmp_path).issue("node")
    issued.key.chmod(0o640)
    server_context(files_of(issued))


@pytest.mark.requirement("SRS-TLS-003")
def test_a_listener_needs_certificate_and_key_and_what_it_checks_callers_with(node, authority, tmp_path):
    """Half a configuration must not become an open port."""
    told: list[str] = []

    def make(section):
        return listener("orders.hl7_tls", section, Path, minimum="1.2", tell=told.append)

    assert make(Tls()) is None
    assert make(ServerTls()) is None
    with pytest.raises(SettingsError, match=r"orders\.hl7_tls: certificate and key are both needed"):
        make(Tls(ca=str(authority.ca)))
    pair = {"certificate": str(node.certificate), "key": str(node.key)}
    with pytest.raises(SettingsError, match="ca is needed"):
        make(Tls(**pair))
    for section, mode in (
        (Tls(**pair, ca=str(authority.ca)), ssl.CERT_REQUIRED),
        (Tls(**pair, ca=str(authority.ca), require_client_certificate=False), ssl.CERT_OPTIONAL),
        (ServerTls(**pair), ssl.CERT_NONE),
    ):
        made = make(section)
        assert made is not None
        assert made.newest().verify_mode == mode


@pytest.mark.requirement("SRS-TLS-004")
def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path):
    """Certificates last for ninety days and less; a restart for each would be an outage for each."""
    authority, told, moment = Authority(tmp_path), [], 0.0
    first = authority.issue("node", dns=("node.example",))
    context = LiveContext(files_of(first), told.append, clock=lambda: moment)

    def seen() -> str:
        with (
            shaking(context) as (plain, _, thread),
            client_context({"ca": authority.ca}).wrap_socket(plain, server_hostname="node.example") as secured,
        ):
            thread.join(30)
            shown = shown_by(secured)
            assert shown is not None
            return shown.fingerprint

    assert seen() == first.fingerprint
    second = authority.issue("node", dns=("node.example",))
    assert seen() == first.fingerprint  # looked at a moment ago
    moment = 2.0
    assert seen() == second.fingerprint
    assert told == [""]


@pytest.mark.requirement("SRS-TLS-004")
def test_half_a_renewal_leaves_the_port_open_with_what_was_there(tmp_path):
    """Certificate and key are replaced one after the other; somebody connects in between."""
    authority, told, moment = Authority(tmp_path), [], 0.0
    first = authority.issue("node", dns=("node.example",))
    context = LiveContext(files_of(first), told.append, clock=lambda: moment)
    before = context.newest()
    second = authority.issue("next", dns=("node.example",))
    shutil.copy(second.certificate, first.certificate)
    moment = 2.0
    assert context.newest() is before
    moment = 4.0
    assert context.newest() is before
    assert len(told) == 1
    assert "is not the key of certificate" in told[0]
    shutil.copy(second.key, first.key)
    moment = 6.0
    assert context.newest() is not before
    assert told[1:] == [""]
    first.certificate.unlink()
    moment = 8.0
    assert context.newest().verify_mode == ssl.CERT_NONE
    assert "cannot be read" in told[2]


@pytest.mark.requirement("SRS-TLS-005")
def test_a_handshake_that_is_begun_and_not_gone_on_with_ends(node):
    """A byte now and then must not hold a thread for ever."""
    with shaking(server_context(files_of(node)), within_s=0.5) as (plain, outcome, thread):
        plain.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        thread.join(30)
        assert isinstance(outcome[0], TimeoutError)
        assert trouble_of(outcome[0]) == "no handshake in time"
        plain.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(1) == b""


@pytest.mark.requirement("SRS-TLS-005")
def test_only_a_certificate_makes_a_stranger(node, authority):
    """A load balancer's probe connects and leaves every second: no administrator wants to read of it."""
    context = server_context(files_of(node, authority.ca, require_client_certificate=True))
    with shaking(context) as (plain, outcome, thread):
        plain.close()
        thread.join(30)
    assert not is_of_certificate(outcome[0])
    with shaking(context) as (plain, outcome, thread):
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        thread.join(30)
    assert not is_of_certificate(outcome[0])
    with (
        shaking(context) as (plain, outcome, thread),
        contextlib.suppress(OSError),
        open_client().wrap_socket(plain) as secured,
    ):
        secured.recv(1)
        thread.join(30)
    assert is_of_certificate(outcome[0])


@pytest.mark.requirement("SRS-TLS-005")
def test_no_more_connections_of_a_web_server_are_begun_than_it_may_have(node):
    """An asyncio server knows of a connection only after its handshake."""
    context = LiveContext(files_of(node), lambda _: None, most=2)

    def begin() -> ssl.SSLObject:
        return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)

    held = [begin(), begin()]
    with pytest.raises(ssl.SSLError, match="more than 2 connections"):
        begin()
    held.pop()
    held.append(begin())


@pytest.mark.requirement("SRS-TLS-010")
def test_a_certificate_is_known_by_fingerprint_common_name_and_dns_names(node, authority):
    """Whichever of them an administrator wrote down."""
    client = authority.issue("ct-scanner", dns=("CT1.hospital.example",))
    outward = client_context({"ca": authority.ca, "certificate": client.certificate, "key": client.key})
    context = server_context(files_of(node, authority.ca, require_client_certificate=True))
    with shaking(context) as (plain, outcome, thread), outward.wrap_socket(plain, server_hostname="node.example"):
        thread.join(30)
        shown = shown_by(outcome[0])
    assert shown is not None
    assert shown.identities == {client.fingerprint, "ct-scanner", "ct1.hospital.example"}
    assert str(shown) == f"{client.fingerprint} (ct-scanner)"
    assert shown_by(socket.socket()) is None


@pytest.mark.requirement("SRS-TLS-010")
@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("", ""),
        (" CT1.Hospital.example ", "ct1.hospital.example"),
        ("AB" * 32, "ab" * 32),
        (":".join(["AB"] * 32), "ab" * 32),
        ("sha256:" + "ab" * 32, "ab" * 32),
        ("SHA256 Fingerprint=" + ":".join(["AB"] * 32), "ab" * 32),
        ("cafe", "cafe"),
    ],
)
def test_a_fingerprint_is_taken_in_every_form_that_tools_print(written, name):
    """openssl prints colons and upper case, browsers do not."""
    assert certificate_name(written) == name


@pytest.mark.requirement("SRS-TLS-010")
@pytest.mark.parametrize("written", [":".join(["AB"] * 20), "ab" * 20, "ab" * 31])
def test_half_a_fingerprint_or_one_of_another_kind_is_told(written):
    """It would keep the device out, and nobody would see why."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        certificate_name(written)


BOUND = CallerRow.of("CT", ["10.0.0.0/8"], "ct1.example")
ANYBODY = CallerRow.of("*", ["*"])


@pytest.mark.requirement("SRS-TLS-010")
@pytest.mark.parametrize(
    ("rows", "ae_title", "address", "identities", "refusal"),
    [
        ([BOUND], "CT", "10.0.0.1", {"ct1.example"}, ""),
        ([BOUND], "CT", "10.0.0.1", {"ct2.example"}, "certificate"),
        ([BOUND], "CT", "10.0.0.1", None, "certificate"),
        ([BOUND], "CT", "11.0.0.1", {"ct1.example"}, "calling_ae_title"),
        ([BOUND], "MR", "10.0.0.1", {"ct1.example"}, "calling_ae_title"),
        ([ANYBODY, BOUND], "CT", "10.0.0.1", {"ct2.example"}, "certificate"),
        ([ANYBODY, BOUND], "CT", "10.0.0.1", None, "certificate"),
        ([ANYBODY, BOUND], "CT", "11.0.0.1", {"ct1.example"}, "calling_ae_title"),
        ([ANYBODY, BOUND], "CT", "10.0.0.1", {"ct1.example"}, ""),
        ([ANYBODY, BOUND], "MR", "10.0.0.1", None, ""),
        ([BOUND, CallerRow.of("CT", ["10.0.0.0/8"], "ct2.example")], "CT", "10.0.0.1", {"ct2.example"}, ""),
        ([CallerRow.of("*", ["*"], "site.example")], "MR", "10.0.0.1", {"site.example"}, ""),
        ([CallerRow.of("*", ["*"], "site.example")], "MR", "10.0.0.1", None, "certificate"),
        ([CallerRow.of("CT", ["*"])], "CT", "10.0.0.1", {"anything"}, ""),
        ([], "CT", "10.0.0.1", {"ct1.example"}, "calling_ae_title"),
    ],
)
def test_a_name_bound_to_a_certificate_opens_to_that_one_only(rows, ae_title, address, identities, refusal):
    """Anybody can use an AE title; a row for everybody must not open a door beside the one that is locked."""
    shown = None if identities is None else frozenset(identities)
    assert refusal_of(rows, ae_title, address, shown) == refusal
