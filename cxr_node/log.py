"""Structured logging: one JSON object a line, on standard error, without anything that identifies a patient.

What may be bound or passed is names of things the node made or the standard's UIDs; dataset values never are. The
processors below are the second lock on that door: keys that name patient attributes are dropped whoever passes them,
objects are named by their type, exceptions of others are named and not quoted, and of what a library says its arguments
are left out. It holds from the import of this module on, before anything is configured and without a terminal's colors:
structlog by itself prints local variables with a traceback.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, MutableMapping
from datetime import date
from numbers import Real
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO

# structlog draws tracebacks with it where it is installed; ours are single lines, and every process would carry 5 MB.
_has_rich = sys.modules.setdefault("rich", None) is not None  # type: ignore[arg-type]
import structlog  # noqa: E402

if not _has_rich:
    del sys.modules["rich"]

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
    """Send every log event of this process, the libraries' too, to `stream` as JSON lines; warnings and what nobody
    caught as well.

    Libraries (pynetdicom, uvicorn, SQLAlchemy, TensorFlow) are let through from WARNING on, by event only: their
    debug lines print datasets.
    """
    out = stream if stream is not None else sys.stderr
    _configure(getattr(logging, level.upper()), out)
    structlog.contextvars.clear_contextvars()
    if stage:
        structlog.contextvars.bind_contextvars(stage=stage)
    handler = logging.StreamHandler(out)
    # At the handler: pydicom sets the level of its logger anew when it is imported, which may be after this.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in SILENT_LIBRARIES)
    handler.addFilter(_without_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_PROCESSORS,
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
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda found: _uncaught(found.exc_type, found.exc_value, found.exc_traceback)
    threading.excepthook = lambda found: _uncaught(found.exc_type, found.exc_value, found.exc_traceback)


def configure_fallback() -> None:
    """Have events before `configure_logging`, and in commands without it, written by the same rules."""
    _configure(logging.INFO, None)


def _configure(level: int, out: TextIO | None) -> None:
    structlog.configure(
        processors=[*_PROCESSORS, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Without a stream standard error as it is then: a test may have put another one there.
        logger_factory=structlog.WriteLoggerFactory(out)
        if out is not None
        else lambda: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """Return a logger; `name` is the module, without the package."""
    return structlog.get_logger(module=name)


def told_by(log: Any, where: str) -> Callable[[str], None]:
    """Return what writes down that the files of a listener were renewed, or why what is there cannot be used."""

    def tell(problem: str) -> None:
        if problem:
            log.error("tls_files_not_renewed", section=where, problem=problem)
        else:
            log.info("tls_files_renewed", section=where)

    return tell


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
    """The message of the node's own errors, written to be logged; of others only what cannot quote a dataset, nor
    name a file: files are named after patients too."""
    if type(error).__module__.partition(".")[0] in ("cxr_node", "storage", "trainer"):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _name_objects(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        event[key] = _plain(event[key])
    return event


def _plain(value: Any) -> Any:
    """Text, numbers, times and collections of them; of anything else its type: what it prints may be a dataset."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Real):  # of NumPy
        return float(value)
    if isinstance(value, str | PurePath | date):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in IDENTIFYING_KEYS}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return type(value).__name__


def _without_arguments(record: logging.LogRecord) -> bool:
    """Keep the first line of what a library says, as it stands in its source: values come as arguments, and asyncio
    writes an exception's text on the lines after it."""
    record.msg, record.args = (str(record.msg).splitlines() or [""])[0], ()
    return True


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Say that a library warned and where, not of what: it quotes the value that it warns of."""
    place = f"{PurePath(filename).name}:{lineno}"
    get_logger("warnings").warning("library_warning", category=category.__name__, at=place)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log what nobody caught; Python prints its message, which may quote anything, and the source lines."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    found = error if error is not None else kind()
    get_logger("process").critical("uncaught_exception", exc_info=(kind, found, trace))


_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _drop_identifying,
    _without_local_variables,
    _name_objects,
]

configure_fallback()
