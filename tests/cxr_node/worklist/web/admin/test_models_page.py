"""Models as pages and API: a change takes two steps, and the second holds for exactly what the first showed."""

import re
import shutil
from datetime import timedelta

import pytest

from cxr_node.worklist.web.admin.catalogue import found_packages, overlap
from storage import audit, instances, model_changes, results
from storage.results import Prediction
from tests.cxr_node.inference.conftest import make_manifest, write_manifest

pytestmark = pytest.mark.requirement("SRS-ADM-203")


def put_package(folder, name, **changes):
    """Write a package that verifies; its network is never loaded here."""
    package = folder / name
    package.mkdir(parents=True)
    for file in ("architecture.json", "weights.npz", "README.md"):
        (package / file).write_bytes(f"{name} {changes}".encode())
    write_manifest(package, make_manifest(name=name, **changes))


def use(low, high, views=("PA", "AP")):
    from cxr_node.inference import IntendedUse

    return IntendedUse((low, high), views, ("CR", "DX"), ("CHEST",))


@pytest.fixture
def settings(settings):
    """Two models of the site are active: adults and small children."""
    packages = settings.data_dir / "packages"
    put_package(packages, "adult")
    put_package(packages, "child", intended_use=use(1, 5))
    put_package(packages, "next", version="2.0.0", intended_use=use(18, 65))
    put_package(packages, "wide", intended_use=use(10, 120))
    analyze = settings.analyze.model_copy(update={"models": ("adult", "child"), "shadow": ()})
    return settings.model_copy(update={"analyze": analyze})


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin", login="ada")
    return client


def effective(database, settings):
    with database.read() as connection:
        found = model_changes.effective(connection, settings.analyze.models, settings.analyze.shadow)
    return [item.name for item in found.active], [item.name for item in found.shadow]


def planned(client, name, state="active", instead="shadow"):
    """Take the first step; return the page and what the second needs."""
    page = client.get(f"/admin/models/{name}/plan", params={"state": state, "instead": instead})
    token = re.search(r'name="token" value="([^"]+)"', page.text)
    return page, {
        "state": state,
        "instead": instead,
        "token": token[1] if token else "",
        "typed": name,
        "reason": "better for children",
    }


def test_the_first_step_says_what_it_means_for_patients_and_changes_nothing(admin, database, settings):
    """Who is no longer looked at stands there in years."""
    page, _ = planned(admin, "next")
    assert "next: off → active" in page.text
    assert "looks for the same in the same patients, and becomes shadow" in page.text
    assert "No longer analysed: pneumonia: 66 years and older (AP, PA)" in page.text
    assert effective(database, settings) == (["adult", "child"], [])


def test_the_second_step_activates_and_puts_the_old_one_into_the_shadow(admin, database, settings):
    """Two models that answer the same question would flag more than either was measured to."""
    _, form = planned(admin, "next")
    answer = admin.post("/admin/models/next/plan", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/models?changed=next")
    assert effective(database, settings) == (["child", "next"], ["adult"])
    page = admin.get("/admin/models").text
    assert "better for children" in page
    assert "replaced by next" in page
    with database.read() as connection:
        entry = audit.newest(connection, "model_changed")[0]
        change = model_changes.history(connection, name="next")[0]
    assert (entry.actor, entry.detail["to"], entry.detail["replaced"]) == ("ada", "active", ["adult"])
    assert change.digest == found_packages(settings.data_dir)["next"].package.digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": ""}, "look at it again"),
        ({"token": "1772452800." + "0" * 64}, "look at it again"),
        ({"state": "shadow"}, "look at it again"),
        ({"instead": "off"}, "look at it again"),
        ({"typed": "adult"}, "type the name next"),
        ({"typed": ""}, "type the name next"),
        ({"reason": "  "}, "a reason is needed"),
    ],
)
def test_the_first_step_cannot_be_skipped_nor_bent(admin, database, settings, change, says):
    """A confirmation of something else is none."""
    _, form = planned(admin, "next")
    answer = admin.post("/admin/models/next/plan", data=form | change)
    assert (answer.status_code, says in answer.text) == (409, True)
    assert effective(database, settings) == (["adult", "child"], [])


def test_a_package_that_changed_since_is_refused(admin, database, settings):
    """Confirmed was what was shown, not what somebody copied over it meanwhile."""
    _, form = planned(admin, "next")
    shutil.rmtree(settings.data_dir / "packages" / "next")
    put_package(settings.data_dir / "packages", "next", version="6.6.6", intended_use=use(18, 65))
    assert admin.post("/admin/models/next/plan", data=form).status_code == 409
    assert effective(database, settings) == (["adult", "child"], [])


def test_an_altered_package_cannot_be_planned(admin, settings):
    (settings.data_dir / "packages" / "next" / "weights.npz").write_bytes(b"x")
    page, _ = planned(admin, "next")
    assert (page.status_code, "the file was altered" in page.text) == (409, True)
    assert "cannot run" in admin.get("/admin/models").text
    assert "cannot run" in admin.get("/admin/models/next").text


def test_a_confirmation_grows_old_and_is_of_one_person(admin, make_client, settings, sign_in, clock, database):
    """A page left open over lunch shows yesterday's figures."""
    _, form = planned(admin, "next")
    other = make_client(settings)
    sign_in(other, "admin", login="eve")
    assert other.post("/admin/models/next/plan", data=form).status_code == 409
    clock.now += timedelta(minutes=11)
    assert admin.post("/admin/models/next/plan", data=form).status_code == 409
    assert effective(database, settings) == (["adult", "child"], [])


def test_whoever_is_second_has_to_look_again(admin, database, settings, clock):
    """Two admins change the models at once: the second confirmed something that is not so any more."""
    _, form = planned(admin, "next")
    with database.begin() as connection:
        model_changes.add(connection, "child", "off", changed_by="eve", now=clock.now)
    assert admin.post("/admin/models/next/plan", data=form).status_code == 409
    assert effective(database, settings) == (["adult"], [])


def test_going_back_is_a_change_like_any_other_and_so_is_the_file(admin, database, settings):
    for name, state in (("next", "active"), ("adult", "active"), ("next", "file"), ("adult", "file")):
        _, form = planned(admin, name, state)
        assert admin.post(f"/admin/models/{name}/plan", data=form).status_code == 303
    assert effective(database, settings) == (["adult", "child"], [])


def test_turning_the_last_model_off_says_that_nothing_is_flagged(admin, database, settings):
    """It must be possible: a model that misleads is worse than none."""
    _, form = planned(admin, "child", "off")
    admin.post("/admin/models/child/plan", data=form)
    page, form = planned(admin, "adult", "off")
    assert "No model is active after this" in page.text
    admin.post("/admin/models/adult/plan", data=form)
    assert effective(database, settings) == ([], [])


def test_only_packages_for_the_same_finding_and_patients_take_each_others_place(settings):
    found = {name: item.package for name, item in found_packages(settings.data_dir).items()}
    assert overlap(found["adult"], found["next"]) == ("pneumonia",)
    assert overlap(found["adult"], found["child"]) == ()
    assert overlap(found["adult"], found["abnormal-adult"]) == ()


def test_the_page_says_what_runs_and_why_a_change_was_not_taken_up(admin, database, settings, clock):
    """Confirmed is not running: the stage that analyses has the last word."""
    package = found_packages(settings.data_dir)
    loaded = {name: {"version": "1", "digest": package[name].package.digest} for name in ("adult", "child")}
    with database.begin() as connection:
        audit.record(connection, "models_loaded", actor="analyze", now=clock.now, detail={"active": loaded})
    assert "The analysis runs this since" in admin.get("/admin/models").text
    _, form = planned(admin, "next")
    admin.post("/admin/models/next/plan", data=form)
    assert "has not said yet that it runs this" in admin.get("/admin/models").text
    with database.begin() as connection:
        audit.record(
            connection, "models_not_loaded", actor="analyze", now=clock.now, detail={"reason": "golden <scores> differ"}
        )
    page = admin.get("/admin/models").text
    assert "was not taken up; the old models go on" in page
    assert "golden &lt;scores&gt; differ" in page
    assert admin.get("/api/models").json()["problem"] == "golden <scores> differ"
    with database.begin() as connection:
        detail = {"reason": "next was replaced", "serving": False}
        audit.record(connection, "models_not_loaded", actor="analyze", now=clock.now, detail=detail)
    page = admin.get("/admin/models").text
    assert "The analysis does not start: studies wait." in page
    assert "the old models go on" not in page


@pytest.mark.requirement("SRS-ADM-205")
def test_a_shadow_model_stands_beside_the_active_one_with_the_studies_they_disagree_on(
    admin, database, settings, ward, clock
):
    with database.begin() as connection:
        model_changes.add(connection, "next", "shadow", changed_by="ada", now=clock.now)
    found = {name: item.package for name, item in found_packages(settings.data_dir).items()}
    for number, (x, y) in enumerate([(0.9, 0.9), (0.9, 0.1), (0.1, 0.1)]):
        ward.add(f"1.{number}")
        with database.begin() as connection:
            image = instances.of_study(connection, f"1.{number}")[0].id
            for name, value in (("adult", x), ("next", y)):
                results.add_prediction(
                    connection,
                    Prediction(
                        image, name, "1", found[name].digest, "pneumonia", value, value, clock.now - timedelta(hours=1)
                    ),
                )
    page = admin.get("/admin/models").text
    assert "3 studies of the last 28 days" in page
    assert "0.40 (" in page
    page = admin.get("/admin/models/next").text
    assert 'href="/studies/1.1"' in page
    assert 'href="/studies/1.0"' not in page


def test_the_api_takes_the_same_two_steps(admin, database, settings):
    """A script must not do in one step what a person has to do in two."""
    body = {"state": "active", "instead": "off"}
    change = body | {"typed": "next", "reason": "tested for a month"}
    assert admin.post("/api/models/next/change", json=change).status_code == 422
    assert admin.post("/api/models/next/change", json=change | {"token": "x"}).status_code == 409
    plan = admin.post("/api/models/next/plan", json=body).json()
    assert (plan["replaced"], plan["lost"]) == (["adult"], ["pneumonia: 66 years and older (AP, PA)"])
    done = admin.post("/api/models/next/change", json=change | {"token": plan["token"]})
    assert {item["name"]: item["state"] for item in done.json()["models"]}["next"] == "active"
    assert effective(database, settings) == (["child", "next"], [])
    assert admin.post("/api/models/none/plan", json=body).status_code == 409


def test_the_card_of_a_released_package_tells_limits_criteria_and_baselines(client, sign_in):
    """Whoever activates a model reads what it did not reach."""
    sign_in(client, "admin")
    page = client.get("/admin/models/pneumonia-adult").text
    for text in (
        "NOT MET",
        "Baselines",
        "An image below the threshold is not a normal image.",
        "0.885 (0.824 to 0.927)",
    ):
        assert text in page
    assert client.get("/admin/models/none").status_code == 404


@pytest.mark.parametrize("role", ["reader", "auditor", "service"])
def test_nobody_else_sees_or_changes_models(client, sign_in, role):
    sign_in(client, role)
    assert client.get("/admin/models").status_code == 403
    assert client.get("/admin/models/adult/plan?state=off").status_code == 403
    assert client.post("/admin/models/adult/plan", data={"state": "off", "token": "x"}).status_code == 403
    assert client.post("/api/models/adult/plan", json={"state": "off"}).status_code == 403
