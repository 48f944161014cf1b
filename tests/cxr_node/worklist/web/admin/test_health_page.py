"""How the node stands: the sentence for each trouble, who is told what, and a page that goes with it."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cxr_node.settings import Destination
from cxr_node.worklist.web.admin.certificates import Certificate, certificates
from cxr_node.worklist.web.admin.condition import MISSING, READY, STARTING, Condition, Disk, Model, Stage, look
from cxr_node.worklist.web.admin.troubles import summary, troubles_of
from storage import audit, callers, destination_states, heartbeats, jobs, senders, tokens
from storage.callers import Rejected
from storage.senders import Silence
from storage.vitals import Growth, Latency, Queue

pytestmark = pytest.mark.requirement("SRS-ADM-106")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOTHING = Latency(0, False, None, None, None)
STAGES = ("receive", "analyze", "deliver", "worklist", "upkeep")
WELL = Condition(
    at=NOON,
    stages=tuple(Stage(name, READY, 1, 0, NOON, NOON) for name in STAGES),
    queues=(Queue("analyze", 3, 0, 1, NOON - timedelta(seconds=20)),),
    failed_jobs=0,
    failed_deliveries=0,
    oldest_pending_at=None,
    hour=Latency(100, False, 0.2, 0.9, 0.02),
    day=NOTHING,
    disk=Disk(50_000_000_000, 100_000_000_000, 2_000_000_000, Growth(1_000_000_000, 86400)),
    database="sqlite",
    database_bytes=1_000_000,
    models=(Model("pneumonia-adult", "1.0.0", "d" * 64, "active", "CPU", ""),),
    gpus=(),
    self_test_at=NOON,
    certificates=(Certificate("receive: certificate", NOON + timedelta(days=30)),),
    open_associations=0,
    paused=(),
    resting=(),
    silences=(Silence(1, "MUTED", "CR", NOON - timedelta(days=3), NOON, NOON, "kim"),),
    unknown_callers=0,
)
DAYS_3 = timedelta(days=3)


def stage(name: str, state: str) -> tuple[Stage, ...]:
    """Return all stages, one of them in that state, last seen 40 s ago."""
    return tuple(
        dataclasses.replace(item, state=state, seen_at=NOON - timedelta(seconds=40)) if item.name == name else item
        for item in WELL.stages
    )


def test_a_node_that_is_well_says_so():
    """A list of green ticks is no answer to a glance; a muted alarm is none."""
    assert troubles_of(WELL) == ()
    assert summary(()) == "All is well."


@pytest.mark.parametrize(
    ("changes", "sentence", "href", "is_urgent"),
    [
        (
            {"stages": stage("receive", MISSING)},
            "receive gives no sign of life for 40 s: no image can come in.",
            "/admin#stages",
            True,
        ),
        (
            {"stages": stage("analyze", STARTING)},
            "analyze is starting: studies wait without a priority until then.",
            "/admin#stages",
            False,
        ),
        (
            {"queues": (Queue("analyze", 2, 0, 0, NOON - timedelta(seconds=90)),)},
            "2 studies wait for analysis, the first for 90 s.",
            "/admin#queue",
            True,
        ),
        (
            {"queues": (Queue("deliver:pacs", 1, 0, 0, NOON - timedelta(minutes=11)),)},
            "1 result waits for pacs, the first for 11 min.",
            "/admin/destinations",
            False,
        ),
        (
            {"queues": (Queue("deliver:pacs", 1, 0, 0, NOON - timedelta(minutes=11)),), "paused": ("pacs",)},
            "pacs is paused: its results wait.",
            "/admin/destinations",
            False,
        ),
        ({"failed_jobs": 1}, "1 job was given up.", "/admin/jobs", False),
        ({"failed_deliveries": 1000}, "1,000 deliveries were given up.", "/admin/destinations", False),
        (
            {"disk": dataclasses.replace(WELL.disk, free=1_500_000_000)},
            "No image is taken: 1.5 GB are free, below min_free_gb = 2.",
            "/admin/retention",
            True,
        ),
        (
            {"disk": dataclasses.replace(WELL.disk, growth=Growth(10_000_000_000, 86400))},
            "The disk is full in 4.8 days at the rate of today, if nothing is deleted.",
            "/admin/retention",
            False,
        ),
        ({"disk": None}, "The folder of the instances cannot be looked at.", "/admin#room", True),
        (
            {"models": (dataclasses.replace(WELL.models[0], self_test="scores differ"),)},
            "The self-test of pneumonia-adult 1.0.0 failed.",
            "/admin/models",
            True,
        ),
        ({"resting": ("pacs",)}, "pacs does not take results: it is left alone after failures.", None, True),
        ({"paused": ("pacs",)}, "pacs is paused: its results wait.", "/admin/destinations", False),
        (
            {"silences": (Silence(1, "CR_ROOM_1", "", NOON - DAYS_3, NOON, None, ""),)},
            "CR_ROOM_1 has sent nothing for 3 d 0 h.",
            "/admin/senders#silent",
            False,
        ),
        (
            {"unknown_callers": 2},
            "2 unknown callers were turned away in the last 24 hours.",
            "/admin/senders#rejected",
            False,
        ),
        (
            {"certificates": (Certificate("receive: certificate", NOON + timedelta(days=29)),)},
            "The certificate of receive: certificate expires in 29 days.",
            "/admin#certificates",
            False,
        ),
        (
            {"certificates": (Certificate("receive: certificate", NOON),)},
            "The certificate of receive: certificate has expired.",
            "/admin#certificates",
            True,
        ),
        (
            {"certificates": (Certificate("peer X: ca", None, "cannot be read: gone"),)},
            "The certificate of peer X: ca cannot be read: gone.",
            "/admin#certificates",
            True,
        ),
        (
            {"hour": Latency(20, False, 0.4, 2.25, 0.2)},
            "5 of 100 studies of the last hour waited 2.2 s or more for their priority; the aim is 1 s.",
            "/admin#speed",
            False,
        ),
    ],
)
def test_each_trouble_is_a_sentence_with_the_page_where_it_is_mended(changes, sentence, href, is_urgent):
    """An admin at night reads what is wrong, what it means for patients, and where to go."""
    (trouble,) = troubles_of(dataclasses.replace(WELL, **changes))
    assert (trouble.sentence, trouble.is_urgent) == (sentence, is_urgent)
    assert trouble.href == (href or "/admin/destinations")


@pytest.mark.requirement("SRS-STO-902")
@pytest.mark.parametrize(
    ("ahead_s", "while_down", "sentence"),
    [
        (-7200.0, True, "set back by 2 h 00 min while the node was down: times of before lie ahead of it"),
        (7200.0, False, "set ahead by 2 h 00 min: it counts as waited"),
        (-59.0, False, None),
    ],
)
def test_a_clock_that_was_set_is_told_for_a_day(settings, database, clock, ahead_s, while_down, sentence):
    """Times on every page are wrong by it, and the time service will do it again."""
    detail = {"ahead_s": ahead_s, "jobs_moved": 0, "while_down": while_down}
    with database.begin() as connection:
        audit.record(connection, "clock_set", actor="upkeep", now=clock.now, detail=detail)

    def told():
        troubles = troubles_of(look(settings, database, clock.now))
        return [trouble.sentence for trouble in troubles if trouble.href == "/admin/audit?event=clock_set"]

    if sentence is None:
        assert told() == []
    else:
        assert sentence in told()[0]
    clock.now += timedelta(hours=25)
    assert told() == []


def test_few_studies_say_nothing_of_the_aim_and_many_silences_are_counted():
    """One slow study at night is no alarm; a network that is down is not thirty of them."""
    few = dataclasses.replace(WELL, hour=Latency(19, False, 9.0, 9.0, 1.0))
    assert troubles_of(few) == ()
    silent = tuple(Silence(n, f"CR_{n}", "CR", NOON - DAYS_3, NOON, None, "") for n in range(30))
    told = troubles_of(dataclasses.replace(WELL, silences=silent))
    assert [trouble.sentence for trouble in told][2:] == [
        "CR_2 CR has sent nothing for 3 d 0 h.",
        "27 more senders are silent.",
    ]
    assert summary(told) == "4 things need an eye."


def test_the_urgent_comes_first():
    """The paused destination of last week must not stand above the receiver that is gone."""
    told = troubles_of(dataclasses.replace(WELL, paused=("pacs",), certificates=(Certificate("a", NOON),)))
    assert [trouble.is_urgent for trouble in told] == [True, False]
    assert summary(told) == "One thing is urgent."


@pytest.mark.requirement("SRS-ADM-105")
def test_a_stage_without_a_sign_of_life_is_missing_and_one_that_starts_is_not(settings, database, clock):
    """A killed process leaves its row: what counts is when it was last seen."""
    with database.begin() as connection:
        for name, ago_s, detail in (
            ("receive", 5, {"open_associations": 2}),
            ("receive", 29, {"open_associations": 1}),
            ("deliver", 31, {}),
            ("analyze", 1, {"state": "loading models", "models": [], "gpus": []}),
            ("worklist", 1, {}),
        ):
            seen = clock.now - timedelta(seconds=ago_s)
            process = f"host:{ago_s}"
            started = clock.now - timedelta(hours=1)
            heartbeats.beat(connection, name, process, started_at=started, now=seen, detail=detail)
    condition = look(settings, database, clock.now)
    assert {item.name: (item.state, item.processes, item.lost) for item in condition.stages} == {
        "receive": (READY, 2, 0),
        "analyze": (STARTING, 1, 0),
        "deliver": (MISSING, 0, 1),
        "worklist": (READY, 1, 0),
        "upkeep": (MISSING, 0, 0),
    }
    assert condition.open_associations == 3
    with database.begin() as connection:
        heartbeats.beat(connection, "worklist", "host:1", started_at=clock.now, now=clock.now, detail={})
    states = {item.name: item.state for item in look(settings, database, clock.now).stages}
    assert (states["deliver"], states["upkeep"]) == (STARTING, STARTING)


def test_models_and_self_test_are_told_by_the_stages_that_know(settings, database, clock):
    """This process never loads a model."""
    models = [{"name": "a", "version": "1", "digest": "d", "device": "GPU:0", "role": "active"}]
    gpu = {"name": "NVIDIA H200", "used_mib": 10, "total_mib": 20}
    tested = {"at": clock.now.isoformat(), "packages": {"a": "scores differ"}}
    with database.begin() as connection:
        for process in ("h:1", "h:2"):
            detail = {"state": "ready", "models": models, "gpus": [gpu]}
            heartbeats.beat(connection, "analyze", process, started_at=clock.now, now=clock.now, detail=detail)
        heartbeats.beat(connection, "upkeep", "h:3", started_at=clock.now, now=clock.now, detail={"self_test": tested})
    condition = look(settings, database, clock.now)
    assert [(item.name, item.device, item.self_test) for item in condition.models] == [("a", "GPU:0", "scores differ")]
    assert [item.name for item in condition.gpus] == ["NVIDIA H200"]
    assert condition.self_test_at == clock.now


def test_what_is_only_noted_late_is_not_shown_late(settings, database, ward, clock):
    """The image that ends a silence ends the alarm; a destination that is gone from node.toml is no news."""
    ward.add("1.2.3", waited_min=3 * 24 * 60)
    with database.begin() as connection:
        ((sender, last),) = senders.last_images(connection).items()
        senders.note_silence(connection, *sender, last_at=last, now=clock.now)
        destination_states.pause(connection, "gone", by="kim", now=clock.now)
    condition = look(settings, database, clock.now)
    assert ([item.sender for item in condition.silences], condition.paused) == ([sender], ())
    ward.add("1.2.4", waited_min=1)
    assert look(settings, database, clock.now).silences == ()


def make_certificate(path, expires_at: datetime) -> None:
    """Write a certificate that expires then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(expires_at - timedelta(days=90))
        .not_valid_after(expires_at)
        .sign(key, hashes.SHA256())
    )
    with path.open("ab") as file:
        file.write(made.public_bytes(Encoding.PEM))


def test_certificates_are_read_from_their_files(settings, tmp_path):
    """Of a chain the first that expires counts; what cannot be read is no certificate that holds for ever."""
    make_certificate(tmp_path / "chain.pem", NOON + timedelta(days=9))
    make_certificate(tmp_path / "chain.pem", NOON + timedelta(days=5))
    (tmp_path / "broken.pem").write_text("no certificate")
    tls = {"certificate": "chain.pem", "ca": "missing.pem"}
    destination = Destination(name="pacs", ae_title="PACS", host="192.0.2.1", tls=tls)
    archive = Destination(name="archive", ae_title="A", host="192.0.2.2", tls={"certificate": "broken.pem"})
    again = Destination(name="again", ae_title="A", host="192.0.2.2", tls=tls)
    found = certificates(settings.model_copy(update={"destination": (destination, archive, again)}))
    assert found == [
        Certificate("destination pacs: certificate", NOON + timedelta(days=5)),
        Certificate("destination pacs: ca", None, "cannot be read: No such file or directory"),
        Certificate("destination archive: certificate", None, "is no certificate in PEM form"),
    ]


@pytest.fixture
def troubled(database, clock):
    """A node with an unknown caller whose name is hostile, and a dead letter."""
    at = clock.now
    with database.begin() as connection:
        callers.note_rejected(connection, [Rejected("<b>CT</b>", "N", "10.1.0.7", "calling_ae_title", 1, at, at)])
        jobs.schedule(connection, "analyze", "1.2", run_at=at, now=at)
        (job,) = jobs.claim(connection, ["analyze"], owner="a:1:", now=at)
        jobs.fail(connection, job, reason="gone", now=at)


def test_the_page_shows_sentence_and_figures_to_an_admin_only(client, sign_in, troubled):
    """It names senders and destinations; the part that renews itself is the same without the frame."""
    assert client.get("/admin").status_code == 403
    sign_in(client, "reader")
    assert client.get("/admin/health").status_code == 403
    sign_in(client, "admin")
    page, part = client.get("/admin"), client.get("/admin/health")
    assert (page.status_code, part.status_code) == (200, 200)
    for text in (page.text, part.text):
        assert "1 job was given up." in text
        assert "1 unknown caller was turned away" in text
        assert "receive gives no sign of life: no image can come in." in text
    assert "<html" in page.text
    assert "<html" not in part.text
    opened = client.get("/admin/health", headers={"Sec-Fetch-Mode": "navigate"}, follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/admin"), "a bookmark of the part is no page"
    opened = client.get("/list?state=flagged", headers={"Sec-Fetch-Mode": "navigate"}, follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/?state=flagged")


def test_a_monitoring_system_reads_numbers_and_an_admin_the_rest(make_client, settings, database, clock, troubled):
    """Its token lies in a file on another machine."""
    strict = settings.model_copy(update={"worklist": settings.worklist.model_copy(update={"require_token": "always"})})
    with database.begin() as connection:
        for role in ("service", "admin"):
            tokens.create(connection, role, role, now=clock.now, secret=f"secret-{role}")
    client = make_client(strict)
    assert client.get("/api/health").status_code == 401
    seen = {
        role: client.get("/api/health", headers={"Authorization": f"Bearer secret-{role}"}).json()
        for role in ("service", "admin")
    }
    assert seen["service"]["detail"] is None
    assert seen["service"]["status"] == "urgent"
    assert seen["service"]["failed_jobs"] == 1
    assert "10.1.0.7" not in json.dumps(seen["service"])
    assert any("job was given up" in item["sentence"] for item in seen["admin"]["detail"]["troubles"])
    same = set(seen["service"]) - {"detail", "free_bytes"}
    assert {key: seen["admin"][key] for key in same} == {key: seen["service"][key] for key in same}


def test_gauges_for_an_alarm_outside_the_node(client, database, clock, ward):
    """A node that is alone at night has somebody else's eye on it."""
    ward.add("1.2.3", waited_min=60, status="pending")
    with database.begin() as connection:
        heartbeats.beat(connection, "receive", "h:1", started_at=clock.now, now=clock.now, detail={})
        senders.note_silence(connection, "CR_ROOM_1", "DX", last_at=clock.now, now=clock.now)
    lines = client.get("/metrics").text.splitlines()
    assert 'cxr_stage_up{stage="receive"} 1.0' in lines
    assert 'cxr_stage_up{stage="analyze"} 0.0' in lines
    assert 'cxr_sender_silent{calling_ae_title="CR_ROOM_1",modality="DX"} 1.0' in lines
    assert "cxr_oldest_pending_study_seconds 3600.0" in lines
    with database.begin() as connection:
        (silence,) = senders.silent(connection)
        senders.mute(connection, silence.id, by="kim", now=clock.now)
    lines = client.get("/metrics").text.splitlines()
    assert 'cxr_sender_silent{calling_ae_title="CR_ROOM_1",modality="DX"} 0.0' in lines
