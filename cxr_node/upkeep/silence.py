"""Modalities that have fallen silent: who sent before, and sends no more.

A modality that was set up anew and sends nowhere looks, from here, like a quiet day; this tells them apart.
"""

from datetime import datetime, timedelta

from cxr_node.log import get_logger
from cxr_node.settings import Settings
from storage import Database, senders

log = get_logger("upkeep")

# What the node's own commands send as: a check of yesterday is no modality that is missed today.
OWN_AE_TITLES = frozenset({"CXR_SEND", "CXR_DOCTOR", "DEMO_PACS", "CXR_BACKFILL", "DROP_PAGE"})


def watch_senders(database: Database, settings: Settings, *, now: datetime) -> None:
    """Note each silence once, and its end with the next image."""
    with database.read() as connection:
        last_images = senders.last_images(connection)
        known = {(item.calling_ae_title, item.modality): item for item in senders.silent(connection)}

    def is_silent(title: str, last_at: datetime) -> bool:
        hours = settings.silent_after_h(title)
        return hours > 0 and title not in OWN_AE_TITLES and now - last_at > timedelta(hours=hours)

    silent = {sender: last for sender, last in last_images.items() if is_silent(sender[0], last)}
    for sender, silence in known.items():
        if silent.get(sender) == silence.last_at:
            continue
        with database.begin() as connection:
            is_over = senders.end_silence(connection, silence.id)
        if is_over and sender not in silent:
            log.info("sender_heard", calling_ae_title=sender[0], modality=sender[1])
    for sender, last_at in silent.items():
        if sender in known and known[sender].last_at == last_at:
            continue
        title, modality = sender
        with database.begin() as connection:
            is_new = senders.note_silence(connection, title, modality, last_at=last_at, now=now)
        if is_new:
            hours = round((now - last_at).total_seconds() / 3600, 1)
            log.warning("sender_silent", calling_ae_title=title, modality=modality, silent_h=hours)
