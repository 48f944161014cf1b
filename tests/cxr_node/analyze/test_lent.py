"""One image whose bytes are not what they were costs its study that image, and no more."""

from datetime import UTC, datetime

import pytest

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.study import lent
from cxr_node.findings import ImageReference
from storage import InstanceFiles
from storage.errors import StorageBusy
from storage.keys import KeyFile, add_key
from tests.builders import make_radiograph_dataset, to_part_10

REFERENCE = ImageReference("1.2.3", "1.2.840.10008.5.1.4.1.1.1", "1.2")


@pytest.fixture
def files(tmp_path):
    add_key(tmp_path / "keys.json", now=datetime.now(UTC))
    return InstanceFiles(tmp_path / "data", keys=KeyFile(tmp_path / "keys.json"))


def keep(files) -> str:
    temporary = files.new_temporary()
    temporary.write_bytes(to_part_10(make_radiograph_dataset()))
    return files.keep(temporary, "1.2.3", 0)


@pytest.mark.requirement("SRS-STO-304")
def test_an_altered_image_is_excluded_and_the_others_of_its_study_are_analysed(files):
    """Nothing of it is decoded, and the report says which one it was."""
    good, altered, gone = (keep(files) for _ in range(3))
    path = files.store.path(altered)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    files.delete(gone)
    prepared = Analyzer([], profile="triage").prepare(
        (lent(files, location), REFERENCE, {}) for location in (good, altered, gone)
    )
    reasons = [item.exclusion.reason for item in prepared]
    assert reasons[1:] == ["unreadable-dataset", "unreadable-dataset"]
    assert reasons[0] != "unreadable-dataset"
    assert altered in prepared[1].exclusion.message


@pytest.mark.requirement("SRS-STO-352")
def test_a_store_that_is_gone_is_no_fault_of_the_image(files, monkeypatch):
    """The job is tried again; an exclusion would be a report without the image for ever."""
    location = keep(files)

    def gone(_: str) -> None:
        raise StorageBusy("the store does not answer")

    monkeypatch.setattr(files.store, "open", gone)
    with pytest.raises(StorageBusy):
        Analyzer([], profile="triage").prepare([(lent(files, location), REFERENCE, {})])
