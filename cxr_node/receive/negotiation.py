"""Remembers what was negotiated: a sender proposes the same presentation contexts each time, and is answered the same.

DCMTK's storescu proposes 120 of them, each with two or three transfer syntaxes. pynetdicom makes a UID of every one
five times over and checks its form each time: longer than a small image takes. Here the bytes of all proposed contexts
are looked up, and with them goes everything that follows from them alone: the contexts, the answer, and its bytes.

Only what an accepted association proposed is kept, so strangers cannot fill the memory. A request that negotiates more
than contexts (roles, asynchronous operations, an identity) takes pynetdicom's way each time.

Names used of pynetdicom 3.0.4 that it does not publish: ``PDU._wrap_generate_items``,
``ACSE._negotiate_as_acceptor``, ``Association._accepted_cx``, ``Association._rejected_cx``.
"""

import copy
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_items import PresentationContextItemAC, PresentationContextItemRQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

MOST_KEPT = 32  # different proposals; a site has a handful of kinds of sender
LONGEST_KEPT = 1 << 15  # bytes of one; that of storescu has 13 KB

_CONTEXT_ITEM = 0x20  # PS3.8 9.3.2.2
_ITEM = struct.Struct(">BxH")  # type, reserved, length of what follows
_OF_EVERY_REQUEST = (
    MaximumLengthNotification,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
)


class EncodedItems:
    """Items of a PDU as the bytes that they become."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def encode(self) -> bytes:
        """Return them."""
        return self._data


@dataclass(frozen=True)
class Answer:
    """What the node says to a proposal. All associations that made it share the contexts, which nobody changes."""

    accepted: dict[int, PresentationContext]
    rejected: tuple[PresentationContext, ...]
    encoded: EncodedItems


@dataclass
class Proposal:
    """The presentation contexts of a request: their bytes, then what becomes of them step by step."""

    data: bytes
    items: tuple[PresentationContextItemRQ, ...]
    contexts: tuple[PresentationContext, ...] | None = None
    answer: Answer | None = None


class Proposals:
    """Those of a server that were answered, the ones used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Proposal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, data: bytes) -> Proposal | None:
        """Return the proposal of these bytes if it was answered before."""
        with self._lock:
            found = self._known.get(data)
            if found is not None:
                self._known.move_to_end(data)
            return found

    def keep(self, proposal: Proposal) -> None:
        """Remember a proposal with its answer."""
        if len(proposal.data) > LONGEST_KEPT:
            return
        with self._lock:
            self._known[proposal.data] = proposal
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)


def split_items(items: bytes) -> tuple[bytes, bytes]:
    """Return the presentation context items of a request, and the others, each in the order in which they came.

    Raises
    ------
    ValueError
        The last item is longer than what came.
    """
    contexts: list[bytes] = []
    others: list[bytes] = []
    start, end = 0, len(items)
    while start + _ITEM.size <= end:
        kind, length = _ITEM.unpack_from(items, start)
        after = start + _ITEM.size + length
        (contexts if kind == _CONTEXT_ITEM else others).append(items[start:after])
        start = after
    if start != end:
        raise ValueError("the items of a request end after its last byte")
    return b"".join(contexts), b"".join(others)


class Request(A_ASSOCIATE_RQ):
    """An A-ASSOCIATE-RQ whose presentation contexts are looked up before they are decoded."""

    def __init__(self, proposals: Proposals) -> None:
        super().__init__()
        self._proposals = proposals
        self._others: list[Any] = []
        self.proposal = Proposal(b"", ())

    def _wrap_generate_items(self, bytestream: bytes) -> list[Any]:
        data, others = split_items(bytestream)
        found = self._proposals.find(data)
        if found is None:
            found = Proposal(data, tuple(super()._wrap_generate_items(data)))  # type: ignore[arg-type]
        self.proposal = found
        self._others = super()._wrap_generate_items(others)
        return [*found.items, *self._others]

    def to_primitive(self) -> A_ASSOCIATE:
        """Return the request as pynetdicom's association reads it."""
        if self.proposal.contexts is None:
            primitive = super().to_primitive()
            self.proposal.contexts = tuple(primitive.presentation_context_definition_list)
            return primitive
        items, self.variable_items = self.variable_items, self._others
        try:
            primitive = super().to_primitive()
        finally:
            self.variable_items = items
        primitive.presentation_context_definition_list = list(self.proposal.contexts)
        return primitive


class RememberingAcse(ACSE):
    """Answers a proposal that was answered before as it was then.

    What pynetdicom checks beside the contexts is not checked again: who may call is decided by the handler of
    EVT_REQUESTED, how many by the server before the association is made.
    """

    def __init__(self, association: Any, proposals: Proposals) -> None:
        super().__init__(association)
        self._proposals = proposals

    def _negotiate_as_acceptor(self) -> None:
        association: Any = self.assoc
        request: Any = self.requestor.primitive
        proposal: Proposal | None = association.dul.proposal
        if proposal is None or not all(isinstance(item, _OF_EVERY_REQUEST) for item in request.user_information):
            association.dul.proposal = None
            super()._negotiate_as_acceptor()
            return
        if proposal.answer is None:
            association.dul.proposal = None
            super()._negotiate_as_acceptor()
            if association.is_established:
                proposal.answer = _answer_of(association)
                self._proposals.keep(proposal)
            return
        self.requestor.ae_title = request.calling_ae_title
        association._accepted_cx = dict(proposal.answer.accepted)
        association._rejected_cx = list(proposal.answer.rejected)
        self.send_accept()
        evt.trigger(association, evt.EVT_ACCEPTED, {})
        association.is_established = True
        evt.trigger(association, evt.EVT_ESTABLISHED, {})


def _answer_of(association: Any) -> Answer:
    items = []
    for context in (*association.accepted_contexts, *association.rejected_contexts):
        item = PresentationContextItemAC()
        item.from_primitive(context)
        items.append(item.encode())
    encoded = EncodedItems(b"".join(items))
    return Answer(dict(association._accepted_cx), tuple(association._rejected_cx), encoded)


def without_results(primitive: Any, proposal: Proposal | None) -> Any:
    """Return what to send for an acceptance: the contexts of a known answer are put in by `with_results`, as bytes."""
    if not isinstance(primitive, A_ASSOCIATE) or primitive.result != 0 or proposal is None:
        return primitive
    short = copy.copy(primitive)
    short.presentation_context_definition_results_list = []
    return short


def with_results(pdu: Any, proposal: Proposal | None) -> Any:
    """Put the contexts into an A-ASSOCIATE-AC, after the application context (PS3.8 9.3.3)."""
    if isinstance(pdu, A_ASSOCIATE_AC) and proposal is not None and proposal.answer is not None:
        encoded: Any = proposal.answer.encoded
        pdu.variable_items.insert(1, encoded)
    return pdu
