"""What listens on the DICOM port of the worklist."""

from cxr_node.accepting import AssociationServer
from cxr_node.log import get_logger
from cxr_node.seldom import Seldom

MOST_CONNECTIONS = 128  # those included that have not said who they are


class DicomServer(AssociationServer):
    """Listens; serve with ``serve_forever``."""

    seldom = Seldom(get_logger("worklist"))
