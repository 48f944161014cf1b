"""The acceptance rules as an administrator sees them."""

import pytest

from cxr_node.findings import ACCEPTANCE_RULES
from tests.cxr_node.worklist.web.drop.conftest import DICOM
from tests.cxr_node.worklist.web.drop.conftest import open_drop as open_drop  # a fixture

pytestmark = pytest.mark.requirement("SRS-DRP-009")

HOSTILE = "<script>alert(1)</script>"


def make_trace(*objecting: str, pixels: str = "", routing: str = "", value: str = "HAND"):
    return {
        "rules": [
            {"reason": rule.reason, "value": value, "objection": "no" if rule.reason in objecting else ""}
            for rule in ACCEPTANCE_RULES
        ],
        "routing": {"models": ["pneumonia-adult"], "objection": routing, "notes": [], "age": "50 years"},
        "pixels": {"looked": True, "objection": pixels},
    }


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin")
    return client


def row(page: str, rule: str) -> str:
    """The line of the trace about a rule."""
    return next(part for part in page.partition('id="trace"')[2].split("<tr")[1:] if f">{rule}</th>" in part)


def test_the_table_is_the_labelling_and_names_the_models(admin):
    """What the gate does, in the words of the documents."""
    page = admin.get("/admin/rules").text
    for rule in ACCEPTANCE_RULES:
        assert f">{rule.reason}</th>" in page
    assert "pneumonia-paediatric" in page
    assert "1 to 5 years" in page
    assert 'id="trace"' not in page


def test_the_rule_that_decided_is_told_apart_from_those_after_it(admin, open_drop):
    """Two object; the first is the reason."""
    tried = open_drop(admin, purpose="rules")
    exclusion = {"reason": "body-part", "message": "no", "attribute": "(0018,0015) Body Part Examined", "value": "HAND"}
    trace = make_trace("body-part", "view", pixels="blank")
    tried.settle(tried.add(DICOM)[0]["id"], "not_analysed", trace=trace, exclusion=exclusion)
    page = admin.get(f"/admin/rules?key={tried.key}").text
    assert "objects and decides" in row(page, "body-part")
    assert "objects" in row(page, "view")
    assert "decides" not in row(page, "view")
    assert "accepts" in row(page, "modality")
    assert "decides" not in row(page, "pixels")
    assert "goes to pneumonia-adult" in row(page, "age")


def test_an_accepted_image_says_where_it_goes_and_not_what_the_model_says(admin, open_drop):
    """The tester is about rules."""
    tried = open_drop(admin, purpose="rules")
    tried.settle(tried.add(DICOM)[0]["id"], "flagged", trace=make_trace(value="CHEST"))
    page = admin.get(f"/admin/rules/trace?key={tried.key}").text
    assert "Accepted" in page
    assert "It goes to m 1." in page
    assert "Flagged" not in page


def test_the_part_asks_again_while_the_file_waits(admin, open_drop):
    """And stops when it is there."""
    tried = open_drop(admin, purpose="rules")
    (file,) = tried.add(DICOM, HOSTILE)
    page = admin.get(f"/admin/rules/trace?key={tried.key}").text
    assert "hx-trigger" in page
    assert HOSTILE not in page
    tried.settle(file["id"], trace=make_trace(value=HOSTILE))
    page = admin.get(f"/admin/rules/trace?key={tried.key}").text
    assert "hx-trigger" not in page
    assert HOSTILE not in page


def test_a_file_without_a_header_is_told_of_without_a_trace(admin, open_drop):
    """The rules look at DICOM headers."""
    tried = open_drop(admin, purpose="rules")
    tried.add(b"%PDF-1.7")
    page = admin.get(f"/admin/rules?key={tried.key}").text
    assert "a PDF document" in page
    assert "Every rule" not in page.partition('id="h-rules"')[0]


def test_a_key_whose_time_is_up_leaves_the_table(admin, make_client, settings, sign_in):
    """A page that was left open over lunch; other roles see nothing of it."""
    assert admin.get(f"/admin/rules?key={'x' * 22}").status_code == 200
    assert admin.get(f"/admin/rules/trace?key={'x' * 22}").status_code == 404
    reader = make_client(settings)
    sign_in(reader, "reader")
    assert reader.get("/admin/rules").status_code == 403
