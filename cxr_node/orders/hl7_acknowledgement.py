"""The answer to an HL7 message, original mode: AA kept, AE to be sent again later, AR cannot be read.

Source: HL7 v2.5.1 chapter 2.9.2, 2.15.1 (ACK), 2.15.5 (ERR), tables 0008 and 0357.
"""

from datetime import datetime

from cxr_node.orders.hl7_message import Header, Rejection

ACCEPTED, ERROR, REJECTED = "AA", "AE", "AR"
TRY_LATER = Rejection("207", "the node cannot keep the message now; send it again")
_MEANINGS = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "207": "Application internal error",
}


def acknowledge(header: Header, code: str, *, now: datetime, why: Rejection | None = None) -> bytes:
    """Return the acknowledgement; `why` becomes an ERR segment, in the form of the message's version."""
    separator, component = header.separator, header.encoding_characters[0]
    escape = header.encoding_characters[2]
    at = now.strftime("%Y%m%d%H%M%S")

    def join(*fields: str) -> str:
        return separator.join(fields).rstrip(separator)

    segments = [
        join(
            "MSH",
            header.encoding_characters,
            header.receiving_application,
            header.receiving_facility,
            header.sending_application,
            header.sending_facility,
            f"{at}+0000",
            "",
            component.join(part for part in ("ACK", header.trigger) if part),
            f"{at}{now.microsecond:06d}",
            header.processing_id,
            header.version,
            *([""] * 5),
            header.character_set,
        ),
        join("MSA", code, header.control_id),
    ]
    if why is not None:
        coded = component.join((why.code, _MEANINGS[why.code], "HL70357"))
        location = [why.segment, "1", *([str(why.field)] if why.field else [])]
        if _is_old(header.version):
            # ERR-1, ELD: segment, sequence, field, and the code as a component of its own kind.
            subcomponent = header.encoding_characters[3]
            place = [*location, *([""] * (3 - len(location)))]
            segments.append(join("ERR", component.join((*place, coded.replace(component, subcomponent)))))
        else:
            message = why.message.replace(escape, " ").replace(separator, " ").replace(component, " ")
            segments.append(join("ERR", "", component.join(location), coded, "E", "", "", "", message))
    return ("\r".join(segments) + "\r").encode(header.encoding, "replace")


def _is_old(version: str) -> bool:
    parts = [int(part) if part.isdigit() else 0 for part in (*version.split("."), "0")[:2]]
    return parts < [2, 5]
