"""What page and API are asked of the list: filters, search and sort as they stand in an address."""

import re
from dataclasses import replace
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import rank
from storage.folding import fold
from storage.worklist_query import Filter, Sort

# A form sends every field, empty or not: an empty one asks for nothing.
Flag = Annotated[bool, BeforeValidator(lambda value: False if value == "" else value)]
State = Literal["", "flagged", "pending", "not_flagged", "not_analysed", "failed"]
_UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")


class ListQuery(BaseModel):
    """Filters are combined: a study is shown that meets all of them."""

    # A parameter that nobody knows must not look like an unfiltered list.
    model_config = ConfigDict(frozen=True, extra="forbid")

    q: str = Field(
        "",
        max_length=200,
        description="words of the patient's name, patient ID or accession number, in any order, case and accents "
        "ignored; or a whole Study Instance UID",
    )
    state: State = Field(
        "",
        description="what the AI says; each study is in one of these states. not_flagged never means that disease is "
        "absent; a flagged study stays flagged while a later image is pending or failed",
    )
    status: Literal["", "pending", "analysed", "not_analysed", "failed"] = Field(
        "", description="how far the analysis of the study is, flagged or not"
    )
    modality: str = Field("", max_length=16, description="(0008,0060), e.g. `DX`")
    reader: Literal["", "new", "opened", "agreed", "disagreed", "unsure"] = Field(
        "", description="what people did: not looked at, opened, or said of the current result"
    )
    ordered: OrderedPriority | Literal[""] = Field("", description="the ordered priority")
    overdue: Flag = Field(False, description="only studies that have waited for the maximum")
    delivery: Literal["", "problem"] = Field(
        "", description="problem: a result object failed to reach a destination, or waits after a failed try"
    )
    sort: Sort | Literal[""] = Field(
        "order",
        description="order: reading order, of what is shown. newest, oldest: by the first image. patient: by name. "
        "state: flagged, pending, not analysed, failed, not flagged",
    )

    def filter(self) -> Filter:
        """Return what storage is asked."""
        words = tuple(dict.fromkeys(fold(self.q).split()))
        uid = self.q.strip()
        return Filter(
            state=self.state,
            status=self.status,
            modality=self.modality.strip(),
            reader=self.reader,
            ordered_rank=rank(self.ordered) if self.ordered else None,
            overdue=self.overdue,
            delivery_problem=self.delivery == "problem",
            words=words,
            study_instance_uid=uid if _UID.fullmatch(uid) else "",
        )

    @property
    def by(self) -> Sort:
        """The order asked for."""
        return self.sort or "order"

    @property
    def is_filtered(self) -> bool:
        """Whether anything but the state is asked for."""
        return replace(self.filter(), state="") != Filter()

    def address(self, page: int = 1, **changes: str | bool) -> str:
        """Return the query string of the same list with other values; what asks for nothing is left out."""
        asked = {name: getattr(self, name) for name in ListQuery.model_fields} | changes
        values = {name: "true" if value is True else str(value) for name, value in asked.items() if value}
        if values.get("sort") == "order":
            del values["sort"]
        if page > 1:
            values["page"] = str(page)
        return f"?{urlencode(values)}" if values else "?"


class PageQuery(ListQuery):
    """The page's: pages are counted from 1."""

    page: int = Field(1, ge=1, le=100_000)


class ApiQuery(ListQuery):
    """The API's: any part of the list."""

    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)
