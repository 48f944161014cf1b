"""What the node may say: findings as coded concepts, exclusions, outcomes of a study, and priority."""

from cxr_node.findings.acceptance import ACCEPTANCE_RULES, MINIMUM_SIZE, AcceptanceRule
from cxr_node.findings.concepts import FINDINGS, Code, Finding
from cxr_node.findings.outcome import (
    Exclusion,
    ImageAnalysis,
    ImageReference,
    Score,
    StudyOutcome,
    StudyStatus,
)
from cxr_node.findings.priority import OrderedPriority, UpsPriority, effective_priority, ups_priority

__all__ = [
    "ACCEPTANCE_RULES",
    "FINDINGS",
    "MINIMUM_SIZE",
    "AcceptanceRule",
    "Code",
    "Exclusion",
    "Finding",
    "ImageAnalysis",
    "ImageReference",
    "OrderedPriority",
    "Score",
    "StudyOutcome",
    "StudyStatus",
    "UpsPriority",
    "effective_priority",
    "ups_priority",
]
