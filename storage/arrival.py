"""What an arriving image does to the row of its study, in one statement: two associations that send the same study
cannot undo one another."""

from functools import cache
from typing import Any

from sqlalchemy import bindparam, case

from storage.folding import LONGEST_CODE, kept, searched
from storage.tables import CONTEXT, Words, insert, studies

_WORDS = (("patient_name", "name_words"), ("patient_id", "id_words"), ("accession_number", "accession_words"))


def words_of(patient_name: str, patient_id: str, accession_number: str) -> dict[str, str]:
    """Return what the study is found by, as a whole for a new row and in pieces for what an old one lacks."""
    return {
        "search": searched(patient_name, patient_id, accession_number),
        "name_words": kept(patient_name),
        "id_words": kept(patient_id, LONGEST_CODE),
        "accession_words": kept(accession_number, LONGEST_CODE),
    }


@cache
def arrival(dialect: str, *, pending: str, analysed: str) -> Any:
    """Return the statement, put together once for all images; `pending` and `analysed` are words of `status`.

    Its parameters are the columns, and what `words_of` returns.
    """
    statement = insert(dialect, studies)
    new, old = statement.excluded, studies.c
    # An unknown order has the rank of the default; naming that default later raises nothing and is worth keeping.
    ordered = (new.ordered_rank > old.ordered_rank) | (
        (old.ordered_priority == "") & (new.ordered_rank == old.ordered_rank)
    )
    effective = (new.priority_rank > old.priority_rank) | (
        (old.effective_priority == "") & (new.priority_rank == old.priority_rank)
    )
    named = (old.ordered_reason == "") & (new.ordered_reason != "") & (new.ordered_rank == old.ordered_rank)
    changes: dict[str, Any] = {
        name: case((old[name] == "", new[name]), else_=old[name])
        for name in (*CONTEXT, "calling_ae_title")
        if name != "ordered_priority"
    }
    for name, replaced in (
        ("ordered_priority", ordered),
        ("ordered_rank", ordered),
        ("ordered_reason", ordered | named),
        ("effective_priority", effective),
        ("priority_rank", effective),
        ("last_received_at", new.last_received_at > old.last_received_at),
    ):
        changes[name] = case((replaced, new[name]), else_=old[name])
    changes["status"] = case((old.status == analysed, analysed), else_=pending)
    changes["retired_at"] = None
    # Put together in the database: only there is it known which of the three this image is the first to tell.
    first_told = {name: case((old[name] == "", bindparam(words, type_=Words)), else_="") for name, words in _WORDS}
    changes["search"] = (
        first_told["patient_name"] + old.search + first_told["patient_id"] + first_told["accession_number"]
    )
    statement = statement.on_conflict_do_update(index_elements=[old.study_instance_uid], set_=changes)
    return statement.returning(old.first_received_at, old.origin)
