"""What an image must say of itself to be accepted, in words: the labelling that gate, pages and documents share.

How each rule looks at a header stands in `analyze.acceptance`, under the same names and in the same order.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class AcceptanceRule:
    """One row of the table.

    `reason` is the rule's name (kebab case, stable); `attribute` is shown with the exclusion; `accepts` and
    `when_missing` are sentences for the labelling.
    """

    reason: str
    attribute: str
    accepts: str
    when_missing: str


MINIMUM_SIZE = 224

ACCEPTANCE_RULES = (
    AcceptanceRule(
        "sop-class",
        "(0008,0016) SOP Class UID",
        "Computed Radiography or Digital X-Ray For Presentation; research also Secondary Capture",
        "excluded",
    ),
    AcceptanceRule("modality", "(0008,0060) Modality", "CR or DX", "excluded"),
    AcceptanceRule(
        "body-part",
        "(0018,0015) Body Part Examined",
        "a value with the word CHEST or THORAX; where empty, a chest code in Anatomic Region Sequence (0008,2218)",
        "excluded: the node does not guess a body part",
    ),
    AcceptanceRule(
        "view",
        "(0018,5101) View Position",
        "PA or AP; where empty, the code in View Code Sequence (0054,0220); research also Patient Position (0018,5100)",
        "excluded: a lateral image would be scored as a frontal one",
    ),
    AcceptanceRule(
        "photometric",
        "(0028,0004) Photometric Interpretation",
        "MONOCHROME1 or MONOCHROME2, one sample per pixel",
        "excluded",
    ),
    AcceptanceRule("frames", "(0028,0008) Number of Frames", "one frame", "accepted: an image without it has one"),
    AcceptanceRule("size", "(0028,0010) Rows", f"at least {MINIMUM_SIZE} rows and columns", "excluded"),
    AcceptanceRule("bits", "(0028,0101) Bits Stored", "8 to 16 bits stored", "excluded"),
)
