"""Structured logging: one JSON object a line, on standard error, without anything that identifies a patient.

What may be bound or passed is names of things the node made or the standard's UIDs; dataset values never are. The
processor below is the second lock on that door: keys that name patient attributes are dropped, whoever passes them.
"""

import logging
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

IDENTIFYING_KEYS = frozenset(
    {
        "patient_name",
        "patient_id",
        "patient_birth_date",
        "birth_date",
        "accession_number",
        "study_description",
        "referring_physician_name",
        "institution_name",
        "dataset",
        "context",
    }
)


# pydicom's warnings quote values of the dataset they stumble over; pynetdicom tells of every connection that fails on
# several lines, where whoever asked says so in one.
SILENT_LIBRARIES = frozenset({"pydicom", "pynetdicom"})


def configure_logging(level: str = "info", stage: str = "", stream: TextIO | None = None) -> None:
    """Send every log event of this process, the libraries' too, to `stream` as JSON lines.

    Libraries (pynetdicom, uvicorn, SQLAlchemy, TensorFlow) are let through from WARNING on, by event only: their
    debug lines print datasets.
    """
    out = stream if stream is not None else sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _drop_identifying,
        _without_local_variables,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    if stage:
        structlog.contextvars.bind_contextvars(stage=stage)
    handler = logging.StreamHandler(out)
    # At the handler: pydicom sets the level of its logger anew when it is imported, which may be after this.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in SILENT_LIBRARIES)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"pydicom\b")


def get_logger(name: str) -> Any:
    """Return a logger; `name` is the module, without the package."""
    return structlog.get_logger(module=name)


def _drop_identifying(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in IDENTIFYING_KEYS.intersection(event):
        del event[key]
    return event


def _without_local_variables(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Render an exception as type, message and place: a full traceback prints source lines, locals print datasets."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info if isinstance(info, BaseException) else (info[1] if isinstance(info, tuple) else None)
    if error is not None:
        event["error_type"] = type(error).__name__
        trace = error.__traceback__
        places = []
        while trace is not None:
            places.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
            trace = trace.tb_next
        event["error_at"] = " > ".join(places[-6:])
        event.setdefault("error", _message(error))
    return event


def _message(error: BaseException) -> str:
    """The message of the node's own errors, written to be logged; of others only what cannot quote a dataset."""
    if type(error).__module__.partition(".")[0] in ("cxr_node", "storage", "trainer") or isinstance(error, OSError):
        return str(error)
    return type(error).__name__
