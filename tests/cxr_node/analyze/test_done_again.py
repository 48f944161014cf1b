"""A failed analysis that an admin has done again."""

import pytest

from storage import dead_letters


@pytest.mark.requirement("SRS-ADM-202")
def test_a_failed_study_that_is_tried_again_gets_its_result_and_its_report(line):
    """The next revision takes the place of the failed one, and goes out as any other."""
    line.arrive(1, 0.9)
    line.fail(reason="no GPU")
    assert line.study().status == "failed"
    with line.database.begin() as connection:
        (letter,) = dead_letters.page(connection, group="analyze", limit=9)
        assert dead_letters.retry(connection, letter.id, by="ada", now=line.now).is_done
    line.analyse()
    assert (line.study().status, line.study().flagged) == ("analysed", True)
    assert (2, "sr", "SCHEDULED") in line.deliveries()
    with line.database.read() as connection:
        assert dead_letters.page(connection, limit=9) == []
