"""Trying images over HTTP: what is taken, who may ask, when it is gone, what leaves by download."""

import csv
import errno
import json
from datetime import timedelta
from io import StringIO

import pytest

from cxr_node.worklist.web.drop import desk
from cxr_node.worklist.web.drop.desk import DropDesk
from storage import audit, drops, jobs
from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.drop.conftest import DICOM, PNG
from tests.cxr_node.worklist.web.drop.test_unpack import make_zip


def with_drop(settings, **changes):
    return with_worklist(settings, drop=settings.worklist.drop.model_copy(update=changes))


@pytest.mark.requirement("SRS-DRP-001")
def test_a_file_waits_for_the_stage_that_looks_and_then_tells_what_came_of_it(tried, database):
    """One job a file, after everything that somebody waits for."""
    (file,) = tried.add(DICOM, "Doe, Jane.dcm")
    assert (file["outcome"], file["name"], file["size"]) == ("waiting", "Doe, Jane.dcm", len(DICOM))
    with database.read() as connection:
        job = jobs.get(connection, drops.KIND, str(file["id"]))
    assert (job.state, job.priority) == ("SCHEDULED", -1)
    assert tried.read()["waiting"] == 1
    tried.settle(file["id"], "not_analysed")
    told = tried.read()
    (file,) = told["files"]
    assert told["waiting"] == 0
    assert (file["outcome"], file["reason"], file["attribute"], file["value"]) == (
        "not_analysed",
        "lateral",
        "(0018,5101) View Position",
        "LL",
    )
    preview = tried.client.get(f"/api/drops/{tried.key}/files/{file['id']}/preview")
    assert (preview.headers["content-type"], preview.content) == ("image/png", PNG)


@pytest.mark.requirement("SRS-DRP-001")
def test_what_is_tried_is_no_study(tried, client):
    """The worklist knows nothing of it."""
    tried.settle(tried.add(DICOM)[0]["id"])
    assert client.get("/api/studies").json()["total"] == 0


@pytest.mark.requirement("SRS-DRP-002")
def test_the_first_bytes_decide_and_not_the_name(tried):
    """A letter named like an image is refused, an image without a name is taken."""
    assert tried.add(b"%PDF-1.7", "chest.dcm")[0]["reason"] == (
        "a PDF document; DICOM, PNG, JPEG and zip are looked at"
    )
    assert tried.add(b"", "chest.dcm")[0]["reason"] == "the file is empty"
    assert tried.add(PNG, "")[0]["outcome"] == "waiting"
    assert len(tried.bytes_kept()) == 1


@pytest.mark.requirement("SRS-DRP-002")
@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "a\0b\x1b[31m", "\u202egnp.exe", "x" * 900, "\\\\host\\share"]
)
def test_a_name_is_shown_without_what_could_move_its_neighbors_and_is_no_path(tried, settings, name):
    """The bytes lie under a random name."""
    (file,) = tried.add(PNG, name)
    assert len(file["name"]) <= 255
    assert not {"\0", "\x1b", "\u202e"}.intersection(file["name"])
    (kept,) = tried.bytes_kept()
    assert len(kept) == 32
    everything = [path for path in settings.data_dir.rglob("*") if path.is_file() and path.read_bytes() == PNG]
    assert [path.name for path in everything] == [kept]


@pytest.mark.requirement("SRS-DRP-003")
def test_the_files_of_a_zip_come_one_by_one_and_the_zip_is_gone(tried):
    """With the zip's name in front; what cannot be looked at says why."""
    files = tried.add(make_zip({"a.png": PNG, "b.txt": b"", "c.pdf": b"%PDF", "d.png": make_zip({})}), "all.zip")
    assert [(file["name"], file["outcome"]) for file in files] == [
        ("all.zip/a.png", "waiting"),
        ("all.zip/b.txt", "refused"),
        ("all.zip/c.pdf", "refused"),
        ("all.zip/d.png", "refused"),
    ]
    assert len(tried.bytes_kept()) == 1


@pytest.mark.requirement("SRS-DRP-003")
def test_uploads_together_have_a_limit_announced_or_not(make_client, settings, open_drop):
    """A body without a length is counted as it comes, and nothing of it stays."""
    tried = open_drop(make_client(with_drop(settings, max_upload_mb=0.0002)))
    tried.add(PNG)
    tried.add(PNG + bytes(200), expect=413)

    def endless():
        for _ in range(50):
            yield bytes(100)

    answer = tried.client.post(f"/api/drops/{tried.key}/files", content=endless())
    assert (answer.status_code, answer.json()["detail"]) == (413, "at most 0.0002 MB can be tried at a time")
    assert len(tried.bytes_kept()) == 1
    (entry,) = tried.add(make_zip({"big": bytes(4000)}), "b.zip")
    assert "too large" in entry["reason"]
    assert len(tried.bytes_kept()) == 1


@pytest.mark.requirement("SRS-DRP-003")
def test_there_may_be_so_many_files_those_of_a_zip_counted(make_client, settings, open_drop):
    """A folder of ten thousand is not what this page is for."""
    tried = open_drop(make_client(with_drop(settings, max_files=3)))
    tried.add(PNG)
    files = tried.add(make_zip({f"{number}.png": PNG for number in range(5)}), "z.zip")
    assert [file["outcome"] for file in files] == ["waiting", "waiting", "refused"]
    assert files[-1]["reason"] == "3 more files of the zip are not looked at: too many"
    tried.add(PNG, expect=413)


@pytest.mark.requirement("SRS-DRP-003")
def test_a_disk_that_is_nearly_full_takes_nothing_to_be_tried(make_client, settings, open_drop):
    """Room is for studies."""
    receive = settings.receive.model_copy(update={"min_free_gb": 1e9})
    tried = open_drop(make_client(settings.model_copy(update={"receive": receive})))
    tried.add(PNG, expect=507)
    assert tried.bytes_kept() == []


@pytest.mark.requirement("SRS-DRP-003")
def test_uploads_beside_one_another_have_one_limit_together(make_client, settings, open_drop, monkeypatch):
    """Each of them saw an empty drop when it began."""
    tried = open_drop(make_client(with_drop(settings, max_upload_mb=0.0001)))
    monkeypatch.setattr(DropDesk, "_used", lambda desk, drop: (0, 0))
    outcomes = [tried.add(PNG)[0] for _ in range(3)]
    assert [file["outcome"] for file in outcomes] == ["waiting", "refused", "refused"]
    assert outcomes[1]["reason"] == "with it there would be too much"
    assert len(tried.bytes_kept()) == 1


@pytest.mark.requirement("SRS-DRP-003")
def test_one_person_has_so_many_uploads_at_a_time(tried, monkeypatch):
    """A hundred at once would fill the disk before anybody counts."""
    monkeypatch.setitem(desk._under_way, "session:dr.lee", desk.MOST_AT_ONCE)
    tried.add(expect=429)
    monkeypatch.setitem(desk._under_way, "session:dr.lee", desk.MOST_AT_ONCE - 1)
    tried.add()
    assert desk._under_way["session:dr.lee"] == desk.MOST_AT_ONCE - 1


@pytest.mark.requirement("SRS-DRP-003")
def test_a_disk_that_fills_up_is_told_and_keeps_nothing(tried, monkeypatch):
    """Not an error of the server."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(desk, "sniff", full)
    tried.add(expect=507)
    assert tried.bytes_kept() == []


@pytest.mark.requirement("SRS-DRP-004")
def test_a_drop_is_its_owners_alone(tried, make_client, settings, sign_in):
    """To a colleague it is not there, and an administrator is one."""
    (file,) = tried.add()
    other = make_client(settings)
    sign_in(other, "admin", "dr.other")
    base = f"/api/drops/{tried.key}"
    for method, path in [
        ("GET", base),
        ("DELETE", base),
        ("GET", f"{base}/results.csv"),
        ("GET", f"{base}/results.json"),
        ("GET", f"{base}/files/{file['id']}/preview"),
        ("POST", f"{base}/files/{file['id']}/send"),
        ("GET", f"/drop/results?key={tried.key}"),
    ]:
        assert other.request(method, path).status_code == 404, path
    assert other.post(f"{base}/files", content=PNG).status_code == 404
    assert len(tried.read()["files"]) == 1


@pytest.mark.requirement("SRS-DRP-004")
def test_a_file_of_another_drop_is_not_there(tried, open_drop):
    """The key and the number must belong together."""
    (file,) = tried.add()
    other = open_drop(tried.client)
    assert tried.client.get(f"/api/drops/{other.key}/files/{file['id']}/preview").status_code == 404


@pytest.mark.requirement("SRS-DRP-004")
def test_clearing_deletes_everything_at_once(tried):
    """Rows, bytes and previews."""
    tried.settle(tried.add()[0]["id"])
    assert len(tried.bytes_kept()) == 2
    assert tried.client.delete(f"/api/drops/{tried.key}").status_code == 204
    assert tried.bytes_kept() == []
    assert tried.client.get(f"/api/drops/{tried.key}").status_code == 404
    tried.add(expect=404)
    assert tried.bytes_kept() == []


@pytest.mark.requirement("SRS-DRP-004")
def test_its_time_counts_from_the_last_file_and_ends(tried, clock):
    """Nobody needs to clear it."""
    clock.now += timedelta(minutes=10)
    tried.add()
    clock.now += timedelta(minutes=10)
    assert len(tried.read()["files"]) == 1
    clock.now += timedelta(minutes=5)
    assert tried.client.get(f"/api/drops/{tried.key}").status_code == 404


@pytest.mark.requirement("SRS-DRP-004")
def test_of_a_persons_drops_the_oldest_goes_for_a_fifth(tried, open_drop):
    """Pages that were never closed must not fill the disk."""
    tried.add()
    for _ in range(4):
        newest = open_drop(tried.client)
    assert tried.client.get(f"/api/drops/{tried.key}").status_code == 404
    assert newest.bytes_kept() == []


@pytest.mark.requirement("SRS-DRP-005")
def test_saying_whom_pictures_show_has_them_looked_at_again(tried, database):
    """And leaves DICOM files as they are, which say it themselves."""
    picture, image = tried.add(PNG)[0]["id"], tried.add(DICOM)[0]["id"]
    tried.settle(picture, "not_analysed", kind="PNG")
    tried.settle(image)
    answer = tried.client.put(f"/api/drops/{tried.key}/population", json={"population": "child"})
    assert answer.json()["population"] == "child"
    assert [file["outcome"] for file in answer.json()["files"]] == ["waiting", "flagged"]
    with database.read() as connection:
        assert jobs.get(connection, drops.KIND, str(picture)).state == "SCHEDULED"
        assert jobs.get(connection, drops.KIND, str(image)).state == "COMPLETED"


@pytest.mark.requirement("SRS-DRP-010")
def test_the_csv_runs_in_no_spreadsheet(tried):
    """Names and values are a stranger's."""
    for name in ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"):
        (file,) = tried.add(DICOM, name)
        tried.settle(file["id"], "not_analysed")
    answer = tried.client.get(f"/api/drops/{tried.key}/results.csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(StringIO(answer.text)))
    assert len(rows) == 5
    assert all(not cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row.values())
    assert (rows[0]["outcome"], rows[0]["reason"]) == ("not_analysed", "lateral")


@pytest.mark.requirement("SRS-DRP-010")
def test_the_json_download_is_what_the_api_tells(tried):
    """One truth in two forms."""
    tried.settle(tried.add(DICOM)[0]["id"])
    answer = tried.client.get(f"/api/drops/{tried.key}/results.json")
    assert "attachment" in answer.headers["content-disposition"]
    assert json.loads(answer.content) == tried.read()


@pytest.mark.requirement("SRS-DRP-006")
def test_without_numbers_in_the_result_none_are_exported(tried):
    """In profile triage the stage writes none."""
    tried.settle(tried.add(DICOM)[0]["id"])
    (row,) = csv.DictReader(StringIO(tried.client.get(f"/api/drops/{tried.key}/results.csv").text))
    assert (row["probability"], row["threshold"], row["model"]) == ("", "", "m")
    assert tried.read()["files"][0]["findings"][0]["probability"] is None


@pytest.mark.requirement("SRS-DRP-001")
def test_who_may_not_try_images_is_told_and_the_page_can_be_off(make_client, settings, sign_in):
    """An auditor looks at trails; a site may not want the page."""
    client = make_client(settings)
    sign_in(client, "auditor")
    assert client.post("/api/drops", json={}).status_code == 403
    off = make_client(with_drop(settings, enabled=False))
    sign_in(off, "admin")
    assert off.post("/api/drops", json={}).status_code == 404
    assert off.get("/drop").status_code == 404
    assert "Try images" not in off.get("/admin/rules").text


@pytest.mark.requirement("SRS-DRP-009")
def test_only_administrators_try_the_rules(client, sign_in):
    """A trace tells how the node decides."""
    sign_in(client, "reader")
    assert client.post("/api/drops", json={"purpose": "rules"}).status_code == 403
    sign_in(client, "admin")
    assert client.post("/api/drops", json={"purpose": "rules"}).status_code == 201


@pytest.mark.requirement("SRS-DRP-001")
def test_a_session_without_its_csrf_token_changes_nothing(tried):
    """A page elsewhere could upload in a reader's name."""
    del tried.client.headers["X-CSRF-Token"]
    tried.add(expect=403)
    assert tried.client.delete(f"/api/drops/{tried.key}").status_code == 403


@pytest.mark.requirement("SRS-DRP-001")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/drops/short", None),
        ("GET", "/api/drops/" + "%00" * 22, None),
        ("GET", "/api/drops/{key}/files/99999999999999999999/preview", None),
        ("POST", "/api/drops", {"population": "old"}),
        ("POST", "/api/drops", {"unknown": 1}),
        ("PUT", "/api/drops/{key}/population", {}),
        ("GET", "/drop/results?key=x", None),
        ("GET", "/drop/results?key={key}&sort=evil", None),
    ],
)
def test_nonsense_is_answered_with_a_client_error(tried, method, path, body):
    """Never with a failure of the server."""
    answer = tried.client.request(method, path.format(key=tried.key), json=body)
    assert answer.status_code in (200, 404, 422)
    assert answer.status_code != 200 or method == "PUT"


@pytest.mark.requirement("SRS-DRP-001")
def test_trying_and_reading_is_audited_without_names_of_files(tried, database):
    """A file's name may be a patient's."""
    tried.add(DICOM, "Doe^Jane.dcm")
    tried.read()
    with database.read() as connection:
        events = audit.events(connection)
    assert {"images_tried", "tried_images_read"} <= {event.event for event in events}
    assert "Doe" not in str(events)
