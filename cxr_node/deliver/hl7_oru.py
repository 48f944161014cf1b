"""Destination `hl7-oru`: tells RIS or interface engine of a study's priority by an HL7 message of the site's template.

Every message is written down word for word before it leaves, and its acknowledgement when it comes. What is sent again
is the text that was sent first: same control id, same bytes, so that a receiver knows the message.
"""

from cxr_node.clock import utc_now
from cxr_node.deliver.hl7_ack import Acknowledgement, decode, read_acknowledgement
from cxr_node.deliver.hl7_template import control_id, load_template
from cxr_node.deliver.mllp import Mllp
from cxr_node.deliver.objects import Sent, Shelf, StoredObject, notice_of
from cxr_node.deliver.policy import NotAcknowledged
from cxr_node.errors import DeliveryError, Disposition, Refused
from cxr_node.settings import Destination, Settings
from storage import messages

DRY_RUN_REASON = "dry run: not sent"


class Hl7Oru:
    """Sends to one HL7 listener, one connection a message.

    Raises
    ------
    SettingsError
        When it is made: the template cannot be used.
    """

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._way = Mllp.to(destination, settings)
        self._template = load_template(settings.path(destination.template) if destination.template else None)
        self._is_dry_run = destination.dry_run
        self._database = shelf.database

    def send(self, stored: StoredObject) -> Sent:
        """Send the message and wait for its acknowledgement.

        AA and CA are success. AE and CE are an error of the receiving application and tried again, some times; AR and
        CR, the message as such is refused, are not, unless their error code is one that passes.

        Raises
        ------
        Unreachable
            No connection, or no acknowledgement in time.
        NotAcknowledged
            AE, CE, or an answer that is about another message.
        Refused
            AR, CR.
        StorageUnavailable, NothingToSend

        Source: HL7 v2.5.1 2.9.2.2, 2.9.3.2; table 0008.
        """
        notice = notice_of(stored)
        left_out = self._template.leaves_out(notice)
        if left_out:
            return Sent(stored.sop_class_uid, stored.sop_instance_uid, left_out, skipped=True)
        known_by = control_id(notice)
        text = self._first_sent(stored.delivery_id) or self._template.render(notice)
        if self._is_dry_run:
            self._write(stored.delivery_id, known_by, text, messages.DRY_RUN)
            return Sent(stored.sop_class_uid, stored.sop_instance_uid, DRY_RUN_REASON)
        written: list[int] = []
        answer = decode(
            self._way.ask(
                text.encode("utf-8"),
                before=lambda: written.append(self._write(stored.delivery_id, known_by, text, "")),
            )
        )
        said = read_acknowledgement(answer)
        with self._database.begin() as connection:
            messages.acknowledge(connection, written[0], acknowledgement=answer, code=said.code if said else "")
        self._judge(said, known_by)
        return Sent(stored.sop_class_uid, stored.sop_instance_uid)

    def test(self) -> str:
        """Return a sentence where no connection comes about. No message is sent: a listener has none that means
        nothing, so its answer to a real one is seen with the first, or by `dry_run` in what is written down."""
        try:
            self._way.knock()
        except DeliveryError as error:
            return str(error)
        return ""

    def _judge(self, said: Acknowledgement | None, known_by: str) -> None:
        """Raise what the acknowledgement leads to, unless it is success."""
        where = self._way.where
        if said is None:
            raise NotAcknowledged(f"{where} answered with a message that is no acknowledgement (no MSA)")
        if said.control_id != known_by:
            raise NotAcknowledged(f"{where} acknowledged another message than the one that was sent (MSA-2)")
        if said.code[1] == "A":
            return
        if said.code[1] == "E":
            raise NotAcknowledged(
                f"{where} answered {said.code}, application error{said.told}: look into that system's log"
            )
        sentence = f"{where} answered {said.code}, message refused{said.told}: check the template of the destination"
        if said.may_pass:
            raise NotAcknowledged(sentence)
        error = Refused(sentence, 0)
        error.disposition = Disposition.FAIL
        raise error

    def _first_sent(self, delivery_id: int) -> str:
        """Return the text of the first sending, empty where it was never sent."""
        with self._database.read() as connection:
            known = messages.of_delivery(connection, delivery_id)
        return next((item.body for item in known if item.code != messages.DRY_RUN), "")

    def _write(self, delivery_id: int, known_by: str, text: str, code: str) -> int:
        with self._database.begin() as connection:
            return messages.add(
                connection,
                direction=messages.OUT,
                peer=self._way.name,
                control_id=known_by,
                message_type=self._template.message_type,
                body=text,
                now=utc_now(),
                delivery_id=delivery_id,
                code=code,
            )
