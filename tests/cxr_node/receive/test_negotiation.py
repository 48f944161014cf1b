"""What was negotiated once is answered again as it was, and nobody who was turned away is remembered."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from cxr_node.receive.negotiation import LONGEST_KEPT, MOST_KEPT, Answer, Proposal, Proposals, split_items
from tests.builders import make_radiograph_dataset
from tests.cxr_node.receive import wire
from tests.cxr_node.receive.conftest import Receiver

NUCLEAR_MEDICINE = "1.2.840.10008.5.1.4.1.1.20"
PROPOSED = [
    (DX, [JPEG2000Lossless]),
    (NUCLEAR_MEDICINE, [ExplicitVRLittleEndian]),  # no class that the node keeps
    (DX, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
    (DX, ["1.2.840.10008.1.2.4.100"]),  # MPEG-2: no transfer syntax that the node keeps
    ("1.2.840.10008.1.1", [ImplicitVRLittleEndian]),
]


def request(*, called: str = "CXR_NODE", roles: bool = False, proposed: list = PROPOSED) -> bytes:
    """An A-ASSOCIATE-RQ with several contexts, some of which the node takes."""
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(wire.association_request(DX, called=called))
    primitive = pdu.to_primitive()
    contexts = []
    for number, (sop_class, syntaxes) in enumerate(proposed):
        context = build_context(sop_class, syntaxes)
        context.context_id = 2 * number + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    if roles:
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = DX, True, False
        primitive.user_information = [*primitive.user_information, role]
    made = A_ASSOCIATE_RQ()
    made.from_primitive(primitive)
    return made.encode()


def answered(receiver: Receiver, data: bytes) -> tuple[int, bytes]:
    """Ask for an association, release it, and return type and body of the answer."""
    with wire.connect(receiver.port) as connection:
        connection.sendall(data)
        answer = wire.receive_pdu(connection)
        if answer[0] == wire.A_ASSOCIATE_AC:
            connection.sendall(wire.RELEASE_RQ)
            assert wire.receive_pdu(connection)[0] == 6
        return answer


def known(receiver: Receiver) -> int:
    return len(receiver.scp._server.proposals)


@pytest.fixture
def stream(start_receiver: Callable[..., Receiver]) -> Receiver:
    return start_receiver(receive__transport="stream")


@pytest.fixture
def stock(start_receiver: Callable[..., Receiver]) -> Receiver:
    return start_receiver(receive__transport="stock")


@pytest.mark.requirement("SRS-RCV-901")
def test_a_proposal_is_answered_each_time_as_the_library_answers_it(stream, stock):
    """A sender that was told something else the second time would send in another transfer syntax, or not at all."""
    expected = answered(stock, request())
    assert expected[0] == wire.A_ASSOCIATE_AC
    assert [answered(stream, request()) for _ in range(3)] == [expected] * 3
    assert known(stream) == 1
    said = A_ASSOCIATE_AC()
    said.decode(b"\x02\0" + len(expected[1]).to_bytes(4, "big") + expected[1])
    results = {item.context_id: item.result for item in said.presentation_context}
    assert results == {1: 0, 3: 3, 5: 0, 7: 4, 9: 0}


@pytest.mark.requirement("SRS-RCV-901")
def test_what_differs_in_one_byte_is_another_proposal(stream, stock):
    """The bytes are the key, all of them: the order of transfer syntaxes and the ids count too."""
    other = [*PROPOSED[:2], (DX, [ExplicitVRLittleEndian]), *PROPOSED[3:]]
    for proposed in (PROPOSED, other, PROPOSED[::-1], PROPOSED, other):
        assert answered(stream, request(proposed=proposed)) == answered(stock, request(proposed=proposed))
    assert known(stream) == 3


@pytest.mark.requirement("SRS-RCV-901")
def test_an_instance_is_kept_over_a_remembered_answer(stream):
    """The contexts of the answer are those that the association goes by."""
    for _ in range(3):
        dataset = make_radiograph_dataset()
        assert stream.send(dataset).Status == 0x0000
        assert len(stream.of(dataset.SOPInstanceUID)) == 1
    assert known(stream) == 1


@pytest.mark.requirement("SRS-RCV-901")
def test_a_stranger_is_not_remembered(stream):
    """Whoever may not send could else fill the memory, one proposal after the other."""
    assert answered(stream, request(called="NOBODY"))[0] == wire.A_ASSOCIATE_RJ
    assert known(stream) == 0


@pytest.mark.requirement("SRS-RCV-901")
def test_a_request_that_negotiates_more_than_contexts_takes_the_librarys_way_each_time(stream, stock):
    """The answer then does not follow from the contexts alone; nor does it change that of others."""
    plain = answered(stock, request())
    with_role = answered(stock, request(roles=True))
    for expected, data in ((plain, request()), (with_role, request(roles=True)), (plain, request())):
        assert answered(stream, data) == expected
    assert known(stream) == 1


@pytest.mark.requirement("SRS-RCV-901")
def test_the_proposals_used_last_are_kept_and_long_ones_are_not():
    """A site has a handful of kinds of sender; the memory for a thousand is never taken."""
    proposals = Proposals()
    for number in range(MOST_KEPT):
        proposals.keep(Proposal(b"%d" % number, (), (), Answer({}, (), SimpleNamespace())))
    assert proposals.find(b"0") is not None
    proposals.keep(Proposal(b"one more", ()))
    proposals.keep(Proposal(b"x" * (LONGEST_KEPT + 1), ()))
    assert len(proposals) == MOST_KEPT
    assert proposals.find(b"0") is not None
    assert proposals.find(b"1") is None
    assert proposals.find(b"one more") is not None


@pytest.mark.requirement("SRS-RCV-901")
def test_items_that_end_after_the_last_byte_are_no_request():
    """As in the library, which asserts it: half an item must not be the key to a whole one."""
    items = request()[74:]
    contexts, others = split_items(items)
    assert len(contexts) + len(others) == len(items)
    assert contexts[0] == 0x20
    assert others[0] == 0x10  # the application context; the user information follows
    for cut in (1, 3, len(items) - len(items) // 3):
        with pytest.raises(ValueError, match="end after its last byte"):
            split_items(items[:-cut])
