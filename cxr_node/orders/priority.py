"""How a RIS writes a priority, and which of the terms of Requested Procedure Priority (0040,1003) that is."""

from cxr_node.findings import OrderedPriority

# HL7 tables 0485 and 0027, as the order interfaces of archives read them (dcm4chee's hl7-order2dcm), and the words that
# sites send in their place.
TERMS = {
    "S": OrderedPriority.STAT,
    "A": OrderedPriority.HIGH,  # as soon as possible, after STAT
    "P": OrderedPriority.HIGH,  # preoperative
    "C": OrderedPriority.HIGH,  # callback
    "T": OrderedPriority.MEDIUM,  # timing critical
    "R": OrderedPriority.ROUTINE,
    "ASAP": OrderedPriority.HIGH,
    "URGENT": OrderedPriority.HIGH,
    **{str(term): term for term in OrderedPriority},
}


def read_priority(text: str) -> str:
    """Return the term that a RIS's word stands for; empty where it is not known, which orders nothing."""
    return str(TERMS.get(text.strip().upper(), ""))
