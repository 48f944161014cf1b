"""node.toml as typed, frozen values. Each field carries its reason; the README's table is held to them by a test.

An unknown key or a bad value is a `SettingsError` that names file, key and what was expected. The environment
overrides single keys, ``CXR_NODE__RECEIVE__PORT=11113``, and the two lists as a whole,
``CXR_NODE__DESTINATION='[{name="pacs", …}]'`` (TOML or JSON). Secrets never stand in the file.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cxr_node.errors import SettingsError

ENVIRONMENT_PREFIX = "CXR_NODE__"

AeTitle = Annotated[str, Field(pattern=r"^[\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e]$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """DICOM TLS (PS3.15 B.12). Paths to PEM files; all empty means no TLS."""

    certificate: str = Field("", description="PEM file with this side's certificate chain")
    key: str = Field("", description="PEM file with its private key")
    ca: str = Field("", description="PEM file with the certificates that may have signed the other side's")
    require_client_certificate: bool = Field(
        True, description="refuse a caller that shows no certificate (listeners only)"
    )

    @property
    def enabled(self) -> bool:
        return bool(self.certificate or self.ca)


class ServerTls(_Section):
    """HTTPS of a listener of our own. Both files, or neither."""

    certificate: str = Field("", description="PEM file with the certificate chain; empty: plain HTTP")
    key: str = Field("", description="PEM file with its private key")

    @property
    def enabled(self) -> bool:
        return bool(self.certificate)

    @model_validator(mode="after")
    def _both(self) -> "ServerTls":
        if bool(self.certificate) != bool(self.key):
            raise ValueError("expected certificate and key together")
        return self


class Node(_Section):
    profile: Literal["triage", "research"] = Field(
        "triage",
        description="`triage`: strict intended use; `research`: also Secondary Capture and Patient Position as view",
    )
    data_dir: str = Field("var", description="where everything that must survive a restart lies; relative to node.toml")
    database: str = Field("", description="SQLAlchemy URL, e.g. `postgresql+psycopg://…`; empty: SQLite in `data_dir`")
    instances: str = Field(
        "",
        description="folder of instances and result objects, or `s3://bucket/prefix` where hosts share no disk; "
        "empty: `data_dir/instances`",
    )
    encryption_key_file: str = Field(
        "", description="file with the keys that instances and result objects are encrypted with; empty: they are not"
    )
    tls_minimum: Literal["1.2", "1.3"] = Field("1.2", description="oldest version of TLS that is spoken, in and out")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log event written"
    )
    metrics_host: str = Field("127.0.0.1", description="address of `metrics_port`")
    metrics_port: Port = Field(
        0, description="port of the metrics of a stage that runs alone (`cxr-node analyze`, …); 0: none"
    )
    station_name: str = Field("cxr-node", max_length=16, description="name of this installation in result objects")


class DicomWeb(_Section):
    """STOW-RS, the second way in."""

    host: str = Field("127.0.0.1", description="address STOW-RS is served on")
    port: Port = Field(0, description="its port; 0: not served")
    require_token: Literal["auto", "always", "never"] = Field(
        "auto", description="a token with the role `service` is asked for; `auto`: unless `host` is a loopback address"
    )
    max_body_gb: float = Field(4.0, gt=0, description="a longer request is refused with 413")
    tls: ServerTls = Field(default_factory=ServerTls, description="HTTPS")


class Watch(_Section):
    """A watched folder, the third way in."""

    path: str = Field("", description="folder whose DICOM files are taken in; empty: none")
    settle_s: float = Field(2.0, ge=0, description="a file is taken once its size has not changed for this long")
    keep: bool = Field(
        False, description="move files that were taken to `.done` in that folder instead of deleting them"
    )


class Receive(_Section):
    ae_title: AeTitle = Field("CXR_NODE", description="called AE title of the node")
    host: str = Field("127.0.0.1", description="address the C-STORE SCP listens on; `0.0.0.0` for every interface")
    port: Port = Field(11112, description="its port")
    processes: int = Field(1, ge=1, le=64, description="acceptor processes that share the port")
    maximum_associations: int = Field(
        64, ge=1, description="open associations per process; more are refused as `local-limit-exceeded`"
    )
    per_caller_associations: int = Field(16, ge=1, description="open associations of one calling AE title per process")
    quiet_period_s: Seconds = Field(
        1.0, description="a study is analysed this long after its last image, or as soon as its association closes"
    )
    min_free_gb: float = Field(
        2.0, ge=0, description="below this free space C-STORE is answered 0xA700 Out of Resources"
    )
    transport: Literal["stream", "stock"] = Field(
        "stream", description="`stock` uses pynetdicom's public interface only, slower"
    )
    idle_timeout_s: float = Field(60.0, gt=0, description="an association without a message this long is aborted")
    manifest_wait_s: Seconds = Field(
        300.0, description="a report waits this long for images that MPPS or IAN announced; a priority never waits"
    )
    tls: Tls = Field(default_factory=Tls, description="DICOM TLS of the listener")
    dicomweb: DicomWeb = Field(default_factory=DicomWeb, description="STOW-RS")
    watch: Watch = Field(default_factory=Watch, description="a watched folder")


class Caller(_Section):
    ae_title: str = Field("*", min_length=1, max_length=16, description="calling AE title that may send; `*` for any")
    hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"), description="addresses or networks (CIDR) it may come from; `*` for any"
    )
    certificate: str = Field(
        "",
        description="TLS certificate it must show: SHA-256 fingerprint, or a DNS name or common name in it; empty: any "
        "that `receive.tls.ca` signed",
    )
    silent_after_h: float = Field(
        -1.0,
        ge=-1,
        description="hours without an image until silence is an alarm; 0: never; -1: as `upkeep` says",
    )


class Analyze(_Section):
    workers: int | Literal["auto"] = Field("auto", description="worker processes; `auto`: one per GPU, else one")
    batch_size: int = Field(8, ge=1, le=256, description="most studies taken in one claim")
    batch_wait_ms: float = Field(
        5.0, ge=0, le=1000, description="longest wait for a batch to fill, on a GPU; on a CPU nothing is waited for"
    )
    engine: Literal["auto", "savedmodel", "litert"] = Field(
        "auto", description="`auto`: SavedModel on a GPU, LiteRT on a CPU where its scores agree with it"
    )
    full_decode: bool = Field(
        False, description="decode JPEG 2000 at full resolution even where a package allows a reduced one"
    )
    models: tuple[str, ...] = Field(("pneumonia-adult", "pneumonia-paediatric"), description="model packages that run")
    shadow: tuple[str, ...] = Field((), description="packages that run and are stored but never reported")


DICOM_OBJECTS = ("sr", "sc", "gsps", "pdf", "kos", "feedback")
PRIORITY = "priority"  # not a DICOM object: a notice of the study's priority, as the destination takes it

# What each kind of destination needs, which objects it can take, and which it gets where `objects` is left out.
DESTINATION_NEEDS: dict[str, tuple[str, ...]] = {
    "c-store": ("ae_title", "host"),
    "stow-rs": ("url",),
    "hl7-oru": ("host",),
    "ups": ("ae_title", "host"),
    "orthanc-label": ("url",),
    "webhook": ("url",),
    "folder": ("path",),
}
DESTINATION_OBJECTS: dict[str, tuple[str, ...]] = {
    "c-store": DICOM_OBJECTS,
    "stow-rs": DICOM_OBJECTS,
    "hl7-oru": (PRIORITY,),
    "ups": (PRIORITY,),
    "orthanc-label": (PRIORITY,),
    "webhook": (PRIORITY,),
    "folder": (*DICOM_OBJECTS, PRIORITY),
}


class Destination(_Section):
    name: Name = Field(description="name in the log, on the worklist and in deliveries")
    kind: Literal["c-store", "stow-rs", "hl7-oru", "ups", "orthanc-label", "webhook", "folder"] = Field(
        "c-store", description="how objects get there"
    )
    ae_title: str = Field(
        "",
        pattern=r"^([\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e])?$",
        description="called AE title (`c-store`, `ups`)",
    )
    host: str = Field("", description="address (`c-store`, `ups`, `hl7-oru`)")
    port: Port = Field(104, description="port (`c-store`, `ups`, `hl7-oru`)")
    url: str = Field("", description="service root (`stow-rs`, `orthanc-label`) or the address to post to (`webhook`)")
    path: str = Field("", description="folder the files are written to (`folder`)")
    objects: tuple[Literal["sr", "sc", "gsps", "pdf", "kos", "feedback", "priority"], ...] = Field(
        (), description="what is sent there; empty: the report, or the priority where the kind carries no objects"
    )
    user: str = Field("", description="user of HTTP basic authentication")
    secret_file: str = Field(
        "",
        description="file with the password (with `user`), the bearer token, or the key that signs a `webhook`",
    )
    template: str = Field("", description="HL7 template of the site (`hl7-oru`); empty: the built-in one")
    dry_run: bool = Field(False, description="write down what would be sent, and send nothing (`hl7-oru`)")
    label: str = Field(
        "ai-priority", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="label of flagged studies (`orthanc-label`)"
    )
    commit: bool = Field(True, description="have the destination prove that it holds what it took")
    proof: Literal["auto", "storage-commitment", "query"] = Field(
        "auto", description="how: `query` reads back by C-FIND or QIDO-RS; `auto`: commitment where it is offered"
    )
    commit_timeout_s: float = Field(
        120.0, gt=0, description="longest wait for the report of a storage commitment before it is asked for again"
    )
    settle_s: Seconds = Field(
        5.0,
        description="wait this long after a study's last image, so that one report covers it; a priority never waits",
    )
    max_attempts: int = Field(500, ge=1, description="tries before a delivery is given up and shown as failed")
    timeout_s: float = Field(30.0, gt=0, description="longest wait for connection, association and answer each")
    tls: Tls = Field(default_factory=Tls, description="TLS towards it, DICOM and HTTPS; HL7 with `ca`")

    @property
    def sends(self) -> tuple[str, ...]:
        """The objects it gets: those of node.toml, else the default of its kind."""
        if self.objects:
            return self.objects
        return ("sr",) if "sr" in DESTINATION_OBJECTS[self.kind] else (PRIORITY,)

    @model_validator(mode="after")
    def _complete(self) -> "Destination":
        missing = [key for key in DESTINATION_NEEDS[self.kind] if not str(getattr(self, key)).strip()]
        if missing:
            raise ValueError(f"a {self.kind} destination needs {' and '.join(DESTINATION_NEEDS[self.kind])}")
        alien = [kind for kind in self.objects if kind not in DESTINATION_OBJECTS[self.kind]]
        if alien:
            raise ValueError(
                f"a {self.kind} destination takes {', '.join(DESTINATION_OBJECTS[self.kind])}, not {', '.join(alien)}"
            )
        if self.kind in ("stow-rs", "orthanc-label", "webhook") and not self.url.startswith(("http://", "https://")):
            raise ValueError("url: expected http:// or https://")
        return self


class Peer(_Section):
    """Where an AE can be called, for what the node sends unasked: UPS events, reports of storage commitment."""

    ae_title: AeTitle = Field(description="AE title of a system that the node may call")
    host: str = Field(min_length=1, description="its address")
    port: Port = Field(104, description="its port")
    tls: Tls = Field(default_factory=Tls, description="DICOM TLS towards it")


class Source(_Section):
    """A system that studies can be fetched from on request."""

    name: Name = Field(description="name on the command line")
    kind: Literal["dimse", "dicomweb"] = Field(
        "dimse", description="`dimse`: C-FIND and C-MOVE; `dicomweb`: QIDO-RS and WADO-RS"
    )
    ae_title: str = Field(
        "", pattern=r"^([\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e])?$", description="its AE title (`dimse`)"
    )
    host: str = Field("", description="its address (`dimse`)")
    port: Port = Field(104, description="its port (`dimse`)")
    url: str = Field("", description="its DICOMweb service root (`dicomweb`)")
    user: str = Field("", description="user of HTTP basic authentication")
    secret_file: str = Field("", description="file with the password (with `user`) or the bearer token (without)")
    timeout_s: float = Field(60.0, gt=0, description="longest wait for connection and answer each")
    tls: Tls = Field(default_factory=Tls, description="TLS towards it")

    @model_validator(mode="after")
    def _address(self) -> "Source":
        if self.kind == "dimse" and not (self.ae_title.strip() and self.host):
            raise ValueError("a dimse source needs ae_title and host")
        if self.kind == "dicomweb" and not self.url.startswith(("http://", "https://")):
            raise ValueError("a dicomweb source needs url, http:// or https://")
        return self


class Ris(_Section):
    """The Modality Worklist of the RIS, asked what priority was ordered."""

    ae_title: str = Field(
        "", pattern=r"^([\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e])?$", description="its AE title; empty: not asked"
    )
    host: str = Field("", description="its address")
    port: Port = Field(104, description="its port")
    timeout_s: float = Field(10.0, gt=0, description="longest wait for connection and answer each")
    tls: Tls = Field(default_factory=Tls, description="DICOM TLS towards it")


class Orders(_Section):
    """What the RIS ordered, and with which priority."""

    hl7_host: str = Field("127.0.0.1", description="address the HL7 listener (MLLP) takes orders on")
    hl7_port: Port = Field(0, description="its port; 0: no listener")
    hl7_tls: Tls = Field(default_factory=Tls, description="TLS of the HL7 listener")
    hl7_senders: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"), description="addresses or networks (CIDR) that may send orders; `*` for any"
    )
    ris: Ris = Field(default_factory=Ris, description="Modality Worklist of the RIS")
    retain_days: float = Field(90.0, gt=0, description="orders and HL7 messages are forgotten after this")

    @property
    def enabled(self) -> bool:
        """Whether there is anything to listen to or to ask."""
        return bool(self.hl7_port or self.ris.ae_title.strip())


class Oidc(_Section):
    """OpenID Connect: people sign in at the site's identity provider."""

    issuer: str = Field("", pattern=r"^(https?://\S+)?$", description="its issuer address; empty: local users only")
    client_id: str = Field("", description="how the provider knows this node")
    client_secret_file: str = Field("", description="file with the client's secret; empty: a public client, PKCE only")
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="scopes that are asked for")
    login_claim: str = Field("preferred_username", description="claim of the ID token that holds the login")
    role_claim: str = Field("roles", description="claim that holds roles or groups")
    admin: tuple[str, ...] = Field((), description="values of that claim that make an admin")
    auditor: tuple[str, ...] = Field((), description="values that make an auditor")
    reader: tuple[str, ...] = Field((), description="values that make a reader; `*`: whoever signs in")
    button: str = Field("Sign in with the hospital account", description="what the button on the sign-in page says")

    @model_validator(mode="after")
    def _complete(self) -> "Oidc":
        if self.issuer and not self.client_id:
            raise ValueError("an issuer needs client_id")
        return self


class Drop(_Section):
    """The page where images can be tried."""

    enabled: bool = Field(True, description="whether there is such a page")
    max_upload_mb: float = Field(512.0, gt=0, description="largest upload, and largest content of a zip")
    max_files: int = Field(500, ge=1, le=10_000, description="most files in one upload, those in a zip counted")
    keep_min: float = Field(15.0, gt=0, description="minutes until what was tried is deleted, results included")


class Worklist(_Section):
    host: str = Field("127.0.0.1", description="address of the web page and API")
    port: Port = Field(8042, description="their port")
    dicom_host: str = Field("127.0.0.1", description="address of the UPS and Modality Worklist SCP")
    dicom_ae_title: AeTitle = Field("CXR_WORKLIST", description="its AE title")
    dicom_port: Port = Field(11113, description="its port")
    dicom_tls: Tls = Field(default_factory=Tls, description="DICOM TLS of that port")
    tls: ServerTls = Field(default_factory=ServerTls, description="HTTPS of the page and API, without a proxy")
    require_token: Literal["auto", "always", "never"] = Field(
        "auto",
        description="people sign in and programs show a token; `never`: on a loopback address anybody there may read",
    )
    public_url: str = Field(
        "", pattern=r"^(https?://[^\s/]+)?$", description="`https://host` under which a proxy serves the page"
    )
    session_idle_min: float = Field(30.0, gt=0, description="minutes without a request after which a session ends")
    session_max_h: float = Field(12.0, gt=0, description="hours after which a session ends in any case")
    oidc: Oidc = Field(default_factory=Oidc, description="sign-in at the site's identity provider")
    drop: Drop = Field(default_factory=Drop, description="the page where images can be tried")
    viewer_url: str = Field(
        "",
        description="link to the site's viewer; `{study_instance_uid}`, `{patient_id}` and `{accession_number}` "
        "are filled in",
    )
    max_wait_min: float = Field(
        120.0,
        gt=0,
        description="longest wait of a study not flagged; past it, it moves to the top, in turn with urgent ones",
    )
    retain_h: float = Field(72.0, gt=0, description="hours a study stays on the list after its last image")
    time_zone: str = Field("UTC", description="IANA zone of the times on the page")


class Audit(_Section):
    """The audit trail outside the node: DICOM Audit Messages (PS3.15 A.5) over syslog."""

    seal_every_s: float = Field(5.0, gt=0, le=3600, description="seconds between links of the chain over new entries")
    syslog_host: str = Field("", description="audit record repository (syslog over TLS, RFC 5425); empty: none")
    syslog_port: Port = Field(6514, description="its port")
    syslog_transport: Literal["tls", "tcp", "udp"] = Field(
        "tls", description="`tcp` and `udp` are for a collector on this machine"
    )
    tls: Tls = Field(default_factory=Tls, description="TLS towards the repository")

    @model_validator(mode="after")
    def _kept_private(self) -> "Audit":
        if self.syslog_transport != "tls" and self.syslog_host not in ("", "localhost", "127.0.0.1", "::1"):
            raise ValueError("syslog_transport: expected tls to another machine: the messages name patients")
        return self


class Upkeep(_Section):
    backup_dir: str = Field("", description="folder that backups are written to while the node runs; empty: none")
    backup_every_h: float = Field(24.0, gt=0, description="hours between backups")
    backup_keep: int = Field(7, ge=1, description="newest backups that are kept")
    retention_days: float = Field(
        30.0, ge=0, description="instances of a finished study are deleted after this; 0 keeps them"
    )
    self_test_min: float = Field(60.0, gt=0, description="minutes between runs of the golden images")
    silent_after_h: float = Field(
        24.0, ge=0, description="hours without an image after which a sender's silence is an alarm; 0: never"
    )
    monitor_baseline: int = Field(
        500, ge=0, le=100_000, description="studies from which a chart learns what is usual here; 0: no monitoring"
    )
    monitor_arl0: float = Field(10_000.0, ge=100, description="studies between two false alarms of a chart, on average")
    association_days: float = Field(
        30.0, gt=0, description="associations, rejected callers, log-ins and completed jobs are forgotten after this"
    )
    sweep_s: float = Field(
        15.0, gt=0, description="seconds between sweeps of expired leases and abandoned temporary files"
    )


class Settings(_Section):
    """The whole of node.toml."""

    node: Node = Field(default_factory=Node)
    receive: Receive = Field(default_factory=Receive)
    caller: tuple[Caller, ...] = Field((Caller(),))
    analyze: Analyze = Field(default_factory=Analyze)
    destination: tuple[Destination, ...] = Field(())
    peer: tuple[Peer, ...] = Field(())
    source: tuple[Source, ...] = Field(())
    orders: Orders = Field(default_factory=Orders)
    worklist: Worklist = Field(default_factory=Worklist)
    audit: Audit = Field(default_factory=Audit)
    upkeep: Upkeep = Field(default_factory=Upkeep)

    base_dir: str = Field(
        "", exclude=True, description="not a key: the folder of node.toml, against which paths resolve"
    )

    @field_validator("destination")
    @classmethod
    def _names_are_unique(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in value]
        if len(set(names)) != len(names):
            raise ValueError(f"destination names must differ, found {names}")
        return value

    @model_validator(mode="after")
    def _triage_shows_no_place(self) -> "Settings":
        """In the profile `triage` no object leaves the node that directs attention to a part of an image."""
        if self.node.profile == "triage":
            for destination in self.destination:
                if "gsps" in destination.objects:
                    raise ValueError(
                        f"destination {destination.name}: gsps shows a place in the image; profile research only"
                    )
        return self

    def silent_after_h(self, calling_ae_title: str) -> float:
        """Return how many hours a sender may be silent, 0: for ever.

        Its own section of node.toml counts, else that of ``*``, else [upkeep].
        """
        named = [caller for caller in self.caller if caller.ae_title.strip() == calling_ae_title]
        anyone = [caller for caller in self.caller if caller.ae_title.strip() == "*"]
        hours = next((caller.silent_after_h for caller in (*named, *anyone)), -1.0)
        return self.upkeep.silent_after_h if hours < 0 else hours

    def path(self, value: str) -> Path:
        """Resolve a path of the file against the file's folder."""
        return (Path(self.base_dir or ".") / Path(value).expanduser()).resolve()

    @property
    def data_dir(self) -> Path:
        return self.path(self.node.data_dir)

    @property
    def instances_dir(self) -> Path:
        return self.path(self.node.instances) if self.node.instances else self.data_dir / "instances"

    @property
    def database_url(self) -> str:
        return self.node.database or f"sqlite:///{self.data_dir / 'cxr-node.db'}"


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read node.toml, or the defaults where `path` is None, and let the environment override.

    Raises
    ------
    SettingsError
        Names the file or variable, the key, what was found and what was expected.
    """
    values: dict[str, Any] = {}
    source = "built-in defaults"
    if path is not None:
        source = str(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    if "base_dir" in values:
        raise SettingsError(f"{source}: base_dir: unknown key")
    _override(values, environment)
    values["base_dir"] = str(path.resolve().parent) if path is not None else str(Path.cwd())
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(source, item) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def _override(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if keys in (["destination"], ["caller"], ["peer"], ["source"]):
            values[keys[0]] = _literal(environment[variable])
            continue
        if len(keys) < 2 or not isinstance(values.setdefault(keys[0], {}), dict):
            raise SettingsError(
                f"environment variable {variable}: expected {ENVIRONMENT_PREFIX}SECTION__KEY of a single section"
            )
        target = values[keys[0]]
        for key in keys[1:-1]:
            target = target.setdefault(key, {})
        target[keys[-1]] = _literal(environment[variable])


def _literal(text: str) -> Any:
    """A TOML or JSON value where the text is one (numbers, true, lists), otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sentence(source: str, item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"{source}: {key}: unknown key"
    found = item.get("input")
    shown = "" if isinstance(found, dict) or item["type"] == "missing" else f", found {found!r}"
    shown = re.sub(r"//[^/@\s]*@", "//…@", shown)  # an address may hold a password
    return f"{source}: {key}: {item['msg']}{shown}"
