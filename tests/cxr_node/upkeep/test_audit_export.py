"""The trail leaves the house: over TLS, in order, each entry at least once, whatever becomes of the repository."""

import base64
import re
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lxml import etree

from cxr_node.settings import Settings
from cxr_node.upkeep.audit_export import Exporter
from cxr_node.upkeep.audit_trail import Keeper
from cxr_node.upkeep.syslog import Repository, RepositoryUnavailable, _was_read, frame, syslog_message
from storage import audit, audit_standings
from tests.certificates import self_signed
from tests.conftest import IN_CI, find_program
from tests.cxr_node.upkeep.syslog_peer import SyslogPeer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEAD = re.compile(rb"<(\d+)>1 (\S+) (\S+) cxr-node (\d+) DICOM\+RFC3881 - \xef\xbb\xbf(<AuditMessage>.*)", re.DOTALL)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return {name: self_signed(folder, name) for name in ("repository", "node", "stranger")}


@pytest.fixture
def peer(certificates):
    made = SyslogPeer(certificates["repository"], ca=certificates["node"][0])
    yield made
    made.close()


def settings_for(site, port, certificates, **keys):
    certificate, key = certificates["node"]
    tls = {"certificate": str(certificate), "key": str(key), "ca": str(certificates["repository"][0])}
    section = {"syslog_host": "127.0.0.1", "syslog_port": port, "tls": tls} | keys
    return Settings.model_validate({**site.settings.model_dump(), "audit": section})


@pytest.fixture
def exporter(site, peer, certificates):
    return Exporter(settings_for(site, peer.port, certificates), site.database)


def write(site, count, *, event="study_read", actor="ann"):
    with site.database.begin() as connection:
        for number in range(count):
            audit.record(connection, event, actor=actor, now=NOON, study_instance_uid="1.2.3", detail={"n": number})
    Keeper(site.database, records_head=False).seal()


def read(messages):
    """Return the entry numbers in the messages, and check the head of each."""
    numbers = []
    for item in messages:
        found = HEAD.fullmatch(item)
        assert found, item
        body = etree.fromstring(found[5])
        numbers.append(int(base64.b64decode(body.xpath("//ParticipantObjectDetail[@type='entry']/@value")[0])))
    return numbers


@pytest.mark.requirement("SRS-AUD-015")
def test_sealed_entries_arrive_over_tls_in_order_and_once(site, peer, exporter):
    """RFC 5425: certificates of both sides, octet counting; RFC 5424: facility 10, the time of the event."""
    write(site, 450)
    write(site, 3, event="sign_in_refused")
    done = exporter.run()
    assert (done.entries, done.messages, done.trouble) == (453, 453, "")
    assert read(peer.messages()) == list(range(1, 454))
    assert len(peer.connections) == 3, "in batches"
    first, last = HEAD.fullmatch(peer.messages()[0]), HEAD.fullmatch(peer.messages()[-1])
    assert (first[1], first[2]) == (b"85", b"2026-03-01T12:00:00.000Z")
    assert last[1] == b"84", "a refusal is a warning"
    assert exporter.run().messages == 0
    assert len(peer.connections) == 3, "nothing new, no connection"


@pytest.mark.requirement("SRS-AUD-015")
def test_what_is_not_sealed_yet_does_not_leave(site, peer, exporter):
    """An entry that is committed late would come before one that was sent already."""
    with site.database.begin() as connection:
        audit.record(connection, "study_read", actor="ann", now=NOON)
    assert exporter.run().entries == 0
    assert peer.connections == []


@pytest.mark.requirement("SRS-AUD-016")
@pytest.mark.parametrize("behave", ["reset", "mute", "gone"])
def test_a_repository_that_was_down_gets_everything_afterwards(site, peer, certificates, behave, monkeypatch):
    """Syslog has no acknowledgement: what went over a connection that broke counts for nothing."""
    monkeypatch.setattr("cxr_node.upkeep.syslog.TIMEOUT_S", 1.0)
    monkeypatch.setattr(Repository.__init__, "__defaults__", ("1.2", 1.0))
    now = [NOON]
    exporter = Exporter(settings_for(site, peer.port, certificates), site.database, now=lambda: now[0])
    write(site, 300)
    peer.behave, peer.drop_after = behave, 20_000
    failed = exporter.run()
    assert failed.entries == 0
    assert failed.trouble.startswith(f"audit repository 127.0.0.1:{peer.port} (tls): ")
    now[0] += timedelta(minutes=5)
    exporter.run()
    with site.database.read() as connection:
        at = audit_standings.get(connection, "syslog")
        assert at.detail == {"trouble": failed.trouble, "since": NOON.isoformat()}, "since it began"
        assert audit_standings.backlog(connection, at).entries == 300
    peer.behave = "well"
    assert exporter.run().trouble == ""
    arrived = read(peer.messages())
    assert sorted(set(arrived)) == list(range(1, 301)), "each at least once"
    assert arrived[-300:] == list(range(1, 301)), "in order"
    with site.database.read() as connection:
        at = audit_standings.get(connection, "syslog")
        assert (at.detail, audit_standings.backlog(connection, at).entries) == ({}, 0)


@pytest.mark.requirement("SRS-AUD-016")
def test_an_end_without_a_word_counts_where_everything_was_read(site, peer, exporter):
    """rsyslog with its GnuTLS driver ends so: waiting for its word would send the first batch for ever."""
    write(site, 300)
    peer.behave = "curt"
    assert exporter.run().trouble == ""
    assert read(peer.messages()) == list(range(1, 301))


@pytest.mark.requirement("SRS-AUD-016")
@pytest.mark.parametrize("is_read", [True, False])
def test_what_was_sent_to_a_side_that_had_left_was_not_read(is_read):
    """The kernel takes such bytes without an error; the other machine resets the connection instead of taking them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        heard, _ = listener.accept()
        with sender, heard:
            if is_read:
                sender.sendall(b"message")
                assert heard.recv(100) == b"message"
            heard.close()
            assert sender.recv(1) == b"", "it ended, and nothing else is known"
            if not is_read:
                sender.sendall(b"message")
            assert _was_read(sender, 20) is is_read


@pytest.mark.requirement("SRS-AUD-016")
def test_nobody_listening_is_a_sentence_and_loses_nothing(site, certificates):
    """The first thing that goes wrong at a site."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        write(site, 2)
        exporter = Exporter(settings_for(site, port, certificates), site.database)
        assert exporter.run().trouble == f"audit repository 127.0.0.1:{port} (tls): Connection refused"


@pytest.mark.requirement("SRS-AUD-016")
def test_a_process_that_dies_is_followed_from_where_it_was(site, peer, certificates):
    """The place is in the database, and the lease of a dead host ends."""
    settings, now = settings_for(site, peer.port, certificates), [NOON]
    write(site, 5)
    dead = Exporter(settings, site.database, now=lambda: now[0])
    dead._owner = "dead:1"
    dead.run()
    write(site, 5)
    heir = Exporter(settings, site.database, now=lambda: now[0])
    assert heir.run().entries == 0, "the other holds it still"
    now[0] += timedelta(minutes=10)
    assert heir.run().entries == 5
    assert read(peer.messages()) == list(range(1, 11))
    heir.release()
    dead.run()


@pytest.mark.requirement("SRS-AUD-017")
@pytest.mark.parametrize("wrong", ["repository", "node"])
def test_a_side_without_the_right_certificate_gets_nothing(site, certificates, wrong):
    """The messages name patients: a repository that is not ours must not read one."""
    shown = certificates["stranger"] if wrong == "repository" else certificates["repository"]
    wanted = certificates["stranger"][0] if wrong == "node" else certificates["node"][0]
    peer = SyslogPeer(shown, ca=wanted)
    try:
        write(site, 1)
        done = Exporter(settings_for(site, peer.port, certificates), site.database).run()
        assert done.trouble
        assert done.entries == 0
        assert peer.messages() == []
    finally:
        peer.close()


@pytest.mark.requirement("SRS-AUD-017")
def test_without_tls_messages_go_to_this_machine_only():
    """TCP and UDP are for a collector beside the node."""
    with pytest.raises(ValueError, match="expected tls to another machine"):
        Settings(audit={"syslog_host": "10.0.0.9", "syslog_transport": "tcp"})


@pytest.mark.requirement("SRS-AUD-015")
def test_a_collector_on_this_machine_may_take_tcp_or_udp(site, certificates):
    """A host's own rsyslog passes them on."""
    write(site, 2)
    peer = SyslogPeer(None)
    try:
        keys = {"syslog_transport": "tcp"}
        assert Exporter(settings_for(site, peer.port, certificates, **keys), site.database).run().entries == 2
        assert read(peer.messages()) == [1, 2]
    finally:
        peer.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(20)
        write(site, 1)
        keys = {"syslog_transport": "udp"}
        Exporter(settings_for(site, heard.getsockname()[1], certificates, **keys), site.database).run()
        assert read([heard.recv(65536)]) == [3]


@pytest.mark.requirement("SRS-AUD-013")
def test_what_came_into_a_study_is_told_of_before_its_result(site, peer, exporter):
    """Images are no entries of the trail: who sent how many, and from where, is read from their rows, once."""
    site.study("1.2.3", age_days=0, images=3)
    for _ in range(2):
        with site.database.begin() as connection:
            audit.record(
                connection, "study_analysed", actor="analyze", now=NOON + timedelta(days=1), study_instance_uid="1.2.3"
            )
    Keeper(site.database, records_head=False).seal()
    assert exporter.run().messages == 3
    arrival, *results = [etree.fromstring(HEAD.fullmatch(item)[5]) for item in peer.messages()]
    assert arrival.xpath("EventIdentification/EventID/@csd-code") == ["110104"]
    (sender,) = arrival.xpath("ActiveParticipant[@UserIsRequestor='true']")
    assert (sender.get("UserID"), sender.get("NetworkAccessPointID")) == ("CR_1", "127.0.0.1")
    assert arrival.xpath("//SOPClass/@NumberOfInstances") == ["3"]
    assert [item.xpath("EventIdentification/EventID/@csd-code") for item in results] == [["110103"], ["110103"]]


@pytest.mark.requirement("SRS-AUD-015")
def test_events_that_are_not_exported_do_not_stop_those_after_them(site, peer, exporter):
    """A row that says why it is no message, and a name of an older release."""
    write(site, 1, event="ups_subscribed")
    write(site, 1, event="of_an_older_release")
    write(site, 1)
    done = exporter.run()
    assert (done.entries, done.messages) == (3, 1)


@pytest.mark.requirement("SRS-AUD-015")
def test_the_head_of_a_message_is_ascii_without_spaces():
    """RFC 5424 6: a host name with a space would shift every field after it."""
    made = syslog_message(b"<x/>", at=NOON, host="nöde 1", process="", severity=5)
    assert made == b"<85>1 2026-03-01T12:00:00.000Z n_de_1 cxr-node - DICOM+RFC3881 - \xef\xbb\xbf<x/>"
    assert frame(b"abc") == b"3 abc"


@pytest.mark.requirement("SRS-AUD-015")
def test_a_host_name_that_is_none_is_a_sentence():
    """A wrong setting must not end the task with a traceback each time."""
    for host in ("..", "no such host.invalid"):
        with pytest.raises(RepositoryUnavailable, match="audit repository"):
            Repository(host, 6514, "tls", {}).deliver([b"x"])


RSYSLOG = """
global(workDirectory="{folder}" net.enableDNS="off" maxMessageSize="64k"
  DefaultNetstreamDriver="{driver}" DefaultNetstreamDriverCAFile="{ca}"
  DefaultNetstreamDriverCertFile="{certificate}" DefaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="{driver}" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
input(type="imtcp" port="0" address="127.0.0.1" listenPortFileName="{folder}/port")
template(name="whole" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{folder}/received" template="whole")
"""


@pytest.mark.requirement("SRS-AUD-018")
@pytest.mark.peer("rsyslogd")
@pytest.mark.parametrize("driver", ["gtls", "ossl"])
def test_rsyslog_takes_every_message_over_tls(site, certificates, driver, tmp_path):
    """The daemon that hospitals run, with each of its TLS drivers (Debian: rsyslog-gnutls, rsyslog-openssl)."""
    if not list(Path("/usr/lib").glob(f"**/rsyslog/lmnsd_{driver}.so")):
        (pytest.fail if IN_CI else pytest.skip)(f"rsyslog's TLS driver {driver} is not installed")
    certificate, key = certificates["repository"]
    about = {"driver": driver, "ca": certificates["node"][0], "certificate": certificate, "key": key}
    config = tmp_path / "rsyslog.conf"
    config.write_text(RSYSLOG.format(folder=tmp_path, **about))
    command = [find_program("rsyslogd"), "-n", "-f", str(config), "-i", str(tmp_path / "pid")]
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port = tmp_path / "port"
        deadline = time.monotonic() + 30
        while not (port.exists() and port.read_text().strip()):
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        write(site, 230)
        settings = settings_for(site, int(port.read_text()), certificates)
        done = Exporter(settings, site.database).run()
        assert (done.entries, done.trouble) == (230, ""), (tmp_path / "log").read_text()
        received = tmp_path / "received"
        while not received.exists() or received.read_bytes().count(b"</AuditMessage>") < 230:
            assert time.monotonic() < deadline + 30, (tmp_path / "log").read_text()
            time.sleep(0.05)
        assert read(received.read_bytes().rstrip(b"\n").split(b"\n")) == list(range(1, 231))
    finally:
        daemon.terminate()
        daemon.wait(20)
