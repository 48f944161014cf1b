"""Statuses of C-FIND and C-MOVE as sentences. Source: DICOM PS3.4 tables C.4-1 and C.4-2."""

from cxr_node.errors import CxrNodeError, SourceRefused, SourceUnavailable

PENDING = frozenset({0xFF00, 0xFF01})
SUCCESS, CANCELLED, SOME_FAILED = 0x0000, 0xFE00, 0xB000
UNKNOWN_DESTINATION = 0xA801


def find_error(where: str, status: int) -> CxrNodeError:
    """Return the error for a C-FIND that ended otherwise than in Success."""
    if status & 0xFF00 == 0xA700:
        return SourceUnavailable(f"{where} is out of resources for C-FIND (0x{status:04X}): ask for fewer days")
    if status == CANCELLED:
        return SourceUnavailable(f"{where} cancelled C-FIND (0xFE00)")
    if status == 0xA900:
        return SourceRefused(f"{where} takes no such C-FIND query at study level (0xA900)")
    return SourceRefused(f"{where} answered C-FIND with failure status 0x{status:04X}")


def move_error(where: str, status: int, own_ae_title: str, own_port: int) -> CxrNodeError:
    """Return the error for a C-MOVE that failed as a whole."""
    if status == UNKNOWN_DESTINATION:
        return SourceRefused(
            f"{where} does not know the move destination {own_ae_title} (0xA801): add the AE {own_ae_title} with this "
            f"node's address and port {own_port} to that system's list of AEs, as one that it may send to"
        )
    if status == 0xA701:
        return SourceUnavailable(f"{where} cannot count the matches, out of resources (0xA701)")
    if status == 0xA702:
        return SourceUnavailable(
            f"{where} could not send (0xA702): check that it reaches {own_ae_title} on port {own_port}, and that "
            "node.toml allows it as a [[caller]]"
        )
    if status == 0x0124:
        return SourceRefused(f"{where} does not authorize C-MOVE by this AE (0x0124)")
    if status == 0xA900:
        return SourceRefused(f"{where} takes no such C-MOVE identifier (0xA900)")
    if status == CANCELLED:
        return SourceUnavailable(f"{where} cancelled C-MOVE (0xFE00)")
    return SourceUnavailable(f"{where} answered C-MOVE with failure status 0x{status:04X}")
