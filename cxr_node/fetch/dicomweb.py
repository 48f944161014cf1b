"""A source that speaks DICOMweb: QIDO-RS and WADO-RS. Source: DICOM PS3.18 10.6, 10.4."""

import contextlib
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydicom.dataset import Dataset

from cxr_node.access import shown_url
from cxr_node.errors import BadMultipart, CxrNodeError, SourceRefused, SourceUnavailable
from cxr_node.fetch.own import Passed
from cxr_node.fetch.query import Fetched, Found, Query, found_of, modalities_of
from cxr_node.multipart import DICOM, Part, PartsToFiles, parse_content_type
from cxr_node.settings import Source
from cxr_node.tls import Minimum, client_context

PAGE = 100
_JSON = "application/dicom+json"
_ANY_SYNTAX = f'multipart/related; type="{DICOM}"; transfer-syntax=*'  # as stored: nothing is decoded on the way
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebSource:
    """Finds by QIDO-RS, fetches by WADO-RS and passes on.

    Parameters
    ----------
    new_path : returns a path for a fetched instance, in a folder that is swept after a crash
    pass_on : gives files to the node's own listener
    secret : password (with `source.user`) or bearer token; empty for none
    tls_files : certificate, key, ca of `source.tls`, those that are set
    """

    def __init__(
        self,
        source: Source,
        *,
        new_path: Callable[[], Path],
        pass_on: Callable[[Sequence[Path]], Passed],
        secret: str,
        tls_files: Mapping[str, Path],
        tls_minimum: Minimum = "1.2",
    ) -> None:
        self._source, self._new_path, self._pass_on = source, new_path, pass_on
        self._url = source.url.rstrip("/")
        headers = {"Authorization": f"Bearer {secret}"} if secret and not source.user else {}
        self._client = httpx.Client(
            timeout=source.timeout_s,
            headers=headers,
            auth=httpx.BasicAuth(source.user, secret) if source.user else None,
            verify=_tls_context(source, tls_files, tls_minimum) if self._url.startswith("https://") else True,
            trust_env=False,
        )

    def find(self, query: Query) -> Iterator[Found]:
        """Yield the studies, each once, a query for each day; see `query.Source`."""
        seen: set[str] = set()
        for day in query.days():
            offset = 0
            while True:
                answers = self._search("studies", _parameters(query, f"{day:%Y%m%d}", offset))
                found = [(found_of(answer), answer) for answer in answers]
                new = [(item, answer) for item, answer in found if item and item.study_instance_uid not in seen]
                for item, answer in new:
                    seen.add(item.study_instance_uid)
                    if self._is_wanted(item, answer, query.modalities):
                        yield item
                offset += len(answers)
                # One that knows no `offset` sends the same page again: then nothing of it is new.
                if len(answers) < PAGE or not new:
                    break

    def _is_wanted(self, found: Found, answer: Dataset, modalities: tuple[str, ...]) -> bool:
        if not modalities:
            return True
        held = modalities_of(answer)
        if held is None:
            series = self._search(f"studies/{found.study_instance_uid}/series", {"includefield": "00080060"})
            held = {str(item.get("Modality", "") or "").strip() for item in series}
        return bool(held & set(modalities))

    def _search(self, path: str, parameters: Mapping[str, str]) -> list[Dataset]:
        try:
            answer = self._client.get(f"{self._url}/{path}", params=dict(parameters), headers={"Accept": _JSON})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if answer.status_code == 204:
            return []
        if answer.status_code != 200:
            raise self._refused(answer.status_code, "QIDO-RS")
        try:
            items = answer.json()
            if not isinstance(items, list):
                raise ValueError
            return [Dataset.from_json(_without_bulk(item)) for item in items]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SourceUnavailable(f"{self._where}: its answer to QIDO-RS is no DICOM JSON") from error

    def fetch(self, study_instance_uid: str) -> Fetched:
        """Retrieve the study and pass it on; see `query.Source`."""
        files: list[Path] = []
        try:
            problem = self._retrieve(study_instance_uid, files)
            if problem:
                return Fetched(0, 0, problem)
            passed = self._pass_on(files)
        finally:
            for path in files:
                path.unlink(missing_ok=True)
        return Fetched(passed.stored, passed.refused, passed.reason)

    def _retrieve(self, study_instance_uid: str, files: list[Path]) -> str:
        """Write every instance to a file of its own; return a sentence where the source will not give the study."""

        def take(part: Part) -> None:
            files.append(part.path)

        url = f"{self._url}/studies/{study_instance_uid}"
        try:
            with self._client.stream("GET", url, headers={"Accept": _ANY_SYNTAX}) as answer:
                if answer.status_code in (404, 410):
                    return f"{self._where} has the study no more (HTTP {answer.status_code})"
                if answer.status_code not in (200, 206):
                    raise self._refused(answer.status_code, "WADO-RS")
                media_type, options = parse_content_type(answer.headers.get("content-type", ""))
                if media_type != "multipart/related" or options["type"] not in ("", DICOM):
                    raise SourceRefused(f"{self._where} answered WADO-RS with {media_type or 'no type'}, not {DICOM}")
                parts = PartsToFiles(options.get("boundary", ""), self._new_path, take)
                with contextlib.closing(parts):
                    for chunk in answer.iter_bytes(1 << 18):
                        parts.write(chunk)
                    parts.finish()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        except BadMultipart as error:
            raise SourceUnavailable(f"{self._where}: its answer to WADO-RS does not read: {error}") from error
        except OSError as error:
            raise SourceUnavailable(f"fetched instances cannot be written: {error.strerror}") from error
        return ""

    @property
    def _where(self) -> str:
        return f"{self._source.name}: {shown_url(self._url)}"

    def _refused(self, status: int, service: str) -> CxrNodeError:
        if status == 401:
            return SourceRefused(f"{self._where} does not accept the credentials (401): check user and secret_file")
        if status == 403:
            return SourceRefused(f"{self._where} does not allow {service} with these credentials (403)")
        if status == 404:
            return SourceRefused(f"{self._where} offers no {service} there (404): check url in node.toml")
        if status in _AGAIN:
            return SourceUnavailable(f"{self._where} answered {service} with HTTP {status}")
        return SourceRefused(f"{self._where} answered {service} with HTTP {status}")

    def _unreachable(self, error: Exception) -> SourceUnavailable:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                why = getattr(cause, "verify_message", "") or cause.reason or "TLS failed"
                return SourceUnavailable(f"{self._where}: {why}")
            if isinstance(cause, OSError) and cause.strerror:
                return SourceUnavailable(f"{self._where}: {cause.strerror}")
            cause = cause.__cause__ or cause.__context__
        slow = isinstance(error, httpx.TimeoutException)
        how = f"no answer within timeout_s = {self._source.timeout_s:g}" if slow else "it broke the connection off"
        return SourceUnavailable(f"{self._where}: {how}")


def _parameters(query: Query, dates: str, offset: int) -> dict[str, str]:
    parameters = {
        "StudyDate": dates,
        "includefield": "00080061,00201208",  # Modalities in Study, Number of Study Related Instances
        "limit": str(PAGE),
        "offset": str(offset),
    }
    if query.patient_id:
        parameters["PatientID"] = query.patient_id
    if len(query.modalities) == 1:
        parameters["ModalitiesInStudy"] = query.modalities[0]
    return parameters


def _without_bulk(item: Any) -> dict[str, Any]:
    """Leave out what is held elsewhere: nothing of it is asked for."""
    return {tag: element for tag, element in dict(item).items() if "BulkDataURI" not in element}


def _tls_context(source: Source, files: Mapping[str, Path], minimum: Minimum) -> ssl.SSLContext:
    try:
        return client_context(files, minimum=minimum)
    except OSError as error:
        raise SourceRefused(f"{source.name}: its TLS files cannot be used: {error.strerror}") from error
