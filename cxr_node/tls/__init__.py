"""TLS in one place, for every listener and every call, DICOM, HL7 and HTTPS alike: what is spoken, with which files,
and who is at the other end. Source: DICOM PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325)."""

from cxr_node.tls.files import ServerFiles
from cxr_node.tls.handshake import HANDSHAKE_WITHIN_S, is_of_certificate, shake_hands, trouble_of
from cxr_node.tls.listening import LOOK_AFTER_S, LiveContext, listener, server_context
from cxr_node.tls.policy import SUITES_OF_1_2, Minimum, client_context, harden, own_context
from cxr_node.tls.shown import Shown, shown_by

__all__ = [
    "HANDSHAKE_WITHIN_S",
    "LOOK_AFTER_S",
    "SUITES_OF_1_2",
    "LiveContext",
    "Minimum",
    "ServerFiles",
    "Shown",
    "client_context",
    "harden",
    "is_of_certificate",
    "listener",
    "own_context",
    "server_context",
    "shake_hands",
    "shown_by",
    "trouble_of",
]
