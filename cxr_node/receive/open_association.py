"""An association while it is open, and what is written down of it at its end."""

import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cxr_node.receive.statuses import SUCCESS
from storage.associations import ENDED, LOST, Association


@dataclass
class OpenAssociation:
    """An association that was let in, and what came over it."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    since: float
    opened_at: datetime
    # Drawn, not counted or an address in memory: it names this association in rows that outlive the process.
    association_id: str = field(default_factory=lambda: secrets.token_hex(8))
    is_counted: bool = False
    answers: Counter[int] = field(default_factory=Counter)
    studies: set[str] = field(default_factory=set)
    bytes: int = 0
    said: str = ""  # RELEASED or ABORTED, once the sender has said so

    def record(self, association: Any, closed_at: datetime, *, is_stopping: bool) -> Association:
        """Return what is written down of it, now that it is over."""
        outcome, reason = self.said or LOST, ""
        if not self.said and is_stopping:
            outcome, reason = ENDED, "the node stopped"
        elif not self.said and association.is_aborted:
            outcome, reason = ENDED, "silence for too long, or a message that is none"
        return Association(
            association_id=self.association_id,
            calling_ae_title=self.calling_ae_title,
            called_ae_title=self.called_ae_title,
            peer_address=self.peer_address,
            opened_at=self.opened_at,
            closed_at=closed_at,
            instances=self.answers[SUCCESS],
            refused=self.answers.total() - self.answers[SUCCESS],
            bytes=self.bytes,
            outcome=outcome,
            reason=reason,
        )
