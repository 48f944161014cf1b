"""Databases for benchmarks: made where they are asked for, and what the receiver leaves in one for a drawn study."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pydicom.uid import DigitalXRayImageStorageForPresentation
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, make_url

from storage import Database, instances, jobs, studies
from tests.benchmarks.drawn import numbered, study_uid


def made_database(folder: Path, server: str, name: str, fill: Callable[[Database], None]) -> str:
    """Return the address of a new database, filled.

    Parameters
    ----------
    server : ``postgresql+psycopg://…`` of a server that the database `name` is made anew on; "" for SQLite in `folder`
    """
    (folder / "var").mkdir(parents=True)
    url = f"sqlite:///{folder}/var/cxr-node.db"
    if server:
        admin = create_engine(make_url(server).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
            connection.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        url = make_url(server).set(database=name).render_as_string(hide_password=False)
    database = Database(url)
    database.migrate()
    fill(database)
    if server:
        with create_engine(make_url(database.url), isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
    database.dispose()
    return url


def add_received(connection: Connection, number: int, *, location: str, size: int, syntax: str, at: datetime) -> None:
    """Store the rows of a drawn study and queue it, as the receiver leaves it."""
    instances.add(
        connection,
        sop_instance_uid=numbered(number, 0),
        series_instance_uid=numbered(number, 1),
        study_instance_uid=study_uid(number),
        sop_class_uid=DigitalXRayImageStorageForPresentation,
        transfer_syntax_uid=syntax,
        variant=0,
        size=size,
        location=location,
        calling_ae_title="BENCH",
        called_ae_title="CXR_NODE",
        peer_address="127.0.0.1",
        association_id=str(number),
        received_at=at,
    )
    context = studies.PatientContext(patient_id=f"P{number}", ordered_priority="ROUTINE")
    studies.touch(connection, study_uid(number), context, ordered_rank=1, calling_ae_title="BENCH", now=at)
    jobs.schedule(connection, "analyze", study_uid(number), run_at=at, now=at)
