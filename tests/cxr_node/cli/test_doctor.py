"""The doctor's look at storage commitment."""

import pytest

from cxr_node.cli.doctor import Unwell, _commitment, _models
from cxr_node.clock import utc_now
from cxr_node.settings import Peer, Settings
from storage import commitments, model_changes
from tests.databases import migrated


@pytest.mark.requirement("SRS-DLV-109")
def test_the_doctor_names_who_waits_for_a_report_in_vain(tmp_path):
    """A modality that deletes nothing until it hears from the node fills up, weeks later."""
    settings = Settings(node={"data_dir": str(tmp_path)})
    assert _commitment(settings) == "nobody has asked yet"
    database = migrated(settings.database_url)
    assert _commitment(settings) == "everybody who asked can be reported to"
    with database.begin() as connection:
        commitments.add_request(
            connection,
            "2.25.1",
            calling_ae_title="CR_ROOM_1",
            called_ae_title="CXR_NODE",
            peer_address="192.0.2.1",
            items=[("1.2", "2.25.7")],
            now=utc_now(),
        )
    database.dispose()
    with pytest.raises(Unwell, match=r"CR_ROOM_1 asked for storage commitment .* add a \[\[peer\]\] section"):
        _commitment(settings)
    peer = Peer(ae_title="CR_ROOM_1", host="192.0.2.1")
    assert _commitment(settings.model_copy(update={"peer": (peer,)})) == "everybody who asked can be reported to"


@pytest.mark.requirement("SRS-ADM-204")
def test_the_doctor_looks_at_the_models_that_run(tmp_path):
    """What node.toml says is half the truth once an admin has decided otherwise."""
    settings = Settings(node={"data_dir": str(tmp_path)})
    assert "pneumonia-adult" in _models(settings), "a node that never ran has no database to ask"
    database = migrated(settings.database_url)
    with database.begin() as connection:
        model_changes.add(connection, "pneumonia-adult", "off", changed_by="ada", now=utc_now())
        model_changes.add(connection, "abnormal-adult", "shadow", changed_by="ada", now=utc_now())
    database.dispose()
    assert "pneumonia-adult" not in _models(settings)
    assert "abnormal-adult" in _models(settings)
