"""The findings that a model package may name, each a coded concept.

Sources: SNOMED CT as used in DICOM (PS3.16 CID 242, CID 6047); 99CXRNODE is this product's private scheme.
"""

from dataclasses import dataclass

PRIVATE_SCHEME = "99CXRNODE"
PRIVATE_SCHEME_NAME = "cxr-node private codes"


@dataclass(frozen=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Finding:
    """What may be seen on a radiograph."""

    name: str
    code: Code
    probability: Code
    site: Code


LUNG = Code("39607008", "SCT", "Lung")
THORAX = Code("51185008", "SCT", "Thorax")

FINDINGS: dict[str, Finding] = {
    "pneumonia": Finding(
        name="pneumonia",
        code=Code("233604007", "SCT", "Pneumonia"),
        probability=Code("PNEUMONIA-PROB", PRIVATE_SCHEME, "Probability of pneumonia"),
        site=LUNG,
    ),
    "abnormal": Finding(
        name="abnormal",
        code=Code("263654008", "SCT", "Abnormal"),
        probability=Code("ABNORMAL-PROB", PRIVATE_SCHEME, "Probability of abnormality"),
        site=THORAX,
    ),
}
