"""HL7 messages made by hand."""

from datetime import UTC, datetime

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PID = "PID|||P1^^^HOSP^MR||DOE^JANE"
ORM = (
    PID,
    "ORC|NW|PL1^RIS|F1^RIS||||1^^^20260301^^S",
    "OBR|1|PL1^RIS|F1^RIS|CXR^Chest|R|||||||||||||A1|RP1|SPS1|||||||1^^^20260301^^S",
    "ZDS|1.2.3^RIS^Application^DICOM",
)
OMI = (
    PID,
    "ORC|NW|PL7^RIS",
    "TQ1|1||||||||A^ASAP^HL70485",
    "OBR|1|PL7^RIS||CXR^Chest",
    "IPC|A7^RIS|RP7^RIS|1.2.7^RIS|SPS7",
)


def message(
    *segments: str,
    kind: str = "ORM^O01",
    control_id: str = "C1",
    version: str = "2.3.1",
    charset: str = "",
    encoding: str = "utf-8",
) -> bytes:
    """A message of these segments after its MSH."""
    msh = f"MSH|^~\\&|RIS|HOSP|CXR_NODE|NODE|20260301120000||{kind}|{control_id}|P|{version}||||||{charset}"
    return "".join(f"{segment}\r" for segment in (msh, *segments)).encode(encoding)


def orm(
    *,
    pid3: str = "P1^^^HOSP^MR",
    orc1: str = "NW",
    orc3: str = "F1",
    orc5: str = "",
    orc7: str = "",
    obr5: str = "",
    obr18: str = "A1",
    obr20: str = "",
    obr27: str = "",
    tq1: str = "",
    **options: str,
) -> bytes:
    """An ORM with these fields: priorities where they are given, each in its component."""
    orc = ["ORC", orc1, "PL1", orc3, "", orc5, "", f"^^^^^{orc7}"]
    obr = ["OBR", "1", "PL1", "", "CXR", obr5, *([""] * 12), obr18, "RP1", obr20, *([""] * 6), f"^^^^^{obr27}"]
    segments = [f"PID|||{pid3}", "|".join(orc), *([f"TQ1|1||||||||{tq1}"] if tq1 else []), "|".join(obr)]
    return message(*segments, **options)
