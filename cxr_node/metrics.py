"""Every metric of the node, with unit and labels, in one place.

Stages are processes of their own, so counters are kept in the multiprocess files of prometheus-client under
``data_dir/run/metrics`` when the environment names that folder; `/metrics` of the worklist merges them.
"""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

ASSOCIATIONS = Counter("cxr_associations_total", "Associations by what became of them", ["outcome"])
OPEN_ASSOCIATIONS = Gauge("cxr_open_associations", "Associations open now", multiprocess_mode="livesum")
INSTANCES = Counter("cxr_instances_total", "C-STORE requests by status answered", ["status"])
INSTANCE_BYTES = Counter("cxr_instance_bytes_total", "Bytes of instances kept")
INTAKE_SECONDS = Histogram("cxr_intake_seconds", "Last fragment received to status answered, s", buckets=SECONDS)
CONFLICTS = Counter("cxr_conflicting_instances_total", "Different objects received under a known SOP Instance UID")
JOBS = Counter("cxr_jobs_total", "Jobs settled, by kind and how", ["kind", "result"])
JOB_SECONDS = Histogram("cxr_job_seconds", "Claim to settlement of a job, s", ["kind"], buckets=SECONDS)
IMAGES = Counter("cxr_images_total", "Images looked at, by outcome: analysed or the exclusion's reason", ["outcome"])
FLAGGED = Counter("cxr_flagged_studies_total", "Studies whose revision raised the priority")
TWO_PATIENTS = Counter("cxr_two_patient_studies_total", "Results of studies with images of more than one patient")
NOTIFY_SECONDS = Histogram("cxr_notify_seconds", "Study's last image durable to priority visible, s", buckets=SECONDS)
DELIVERIES = Counter("cxr_deliveries_total", "Delivery attempts by destination and result", ["destination", "result"])
PROOFS = Counter(
    "cxr_proofs_total", "Proofs of delivery by destination, method and result", ["destination", "method", "result"]
)
SELF_TEST = Gauge(
    "cxr_self_test_ok", "1 while the last run of the golden images agreed", multiprocess_mode="mostrecent"
)
AUDIT_CHAIN = Gauge(
    "cxr_audit_chain_ok", "1 while the audit trail was whole when it was verified last", multiprocess_mode="mostrecent"
)
AUDIT_WAITING = Gauge(
    "cxr_audit_waiting_entries",
    "Sealed entries that the audit repository has not taken",
    multiprocess_mode="mostrecent",
)
ENGINE_TROUBLES = Counter(
    "cxr_engine_troubles_total",
    "Times that an engine had to go on otherwise than it was meant to, by event of the log",
    ["event"],
)
HUNG_PROCESSES = Counter(
    "cxr_hung_processes_total", "Processes that gave no sign and were ended by the supervisor", ["stage"]
)
QUERIES = Counter("cxr_worklist_queries_total", "DICOM worklist queries by service and status", ["service", "status"])
MESSAGES_IN = Counter("cxr_hl7_messages_total", "HL7 messages that came in, by code of the acknowledgement", ["code"])
