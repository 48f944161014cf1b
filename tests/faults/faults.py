"""Faults of the machine and of the peers, and what was seen to hold: the table beside the one of kill -9."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A row of the table. `test` is the file and the test that shows it."""

    fault: str
    stage: str
    happens: str
    holds: str
    test: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        "kill -9",
        "whole node",
        "receiver, analysis, delivery and worklist are killed once each while a study passes, under the supervisor",
        "one result, one report in the PACS, every stage up again, the queue empty",
        "tests/faults/test_kill_node.py::test_a_study_passes_a_node_that_is_killed_in_every_stage",
    ),
    Fault(
        "power cut",
        "receive, analyze, deliver",
        "the power fails after any call to the disk; what was not synced is gone, or its names are",
        "every image that was answered Success and every report that was sent is whole, and its row is there",
        "tests/faults/test_power_cut.py::test_what_was_acknowledged_and_what_was_sent_is_whole_after_a_cut_at_any_step",
    ),
    Fault(
        "disk full",
        "receive, analyze, deliver",
        "less space is left than node.toml keeps from senders",
        "C-STORE is answered 0xA700; what was accepted is analysed and delivered from the reserve; taken up by itself",
        "tests/faults/test_disk_full.py::"
        "test_senders_are_refused_and_what_was_accepted_is_analysed_and_delivered_from_the_reserve",
    ),
    Fault(
        "disk full",
        "receive, analyze, deliver",
        "not a byte is left, for the database neither",
        "C-STORE is answered 0xA700; nothing is lost or given up; the node goes on by itself when there is space",
        "tests/faults/test_disk_full.py::test_a_disk_without_a_byte_left_loses_nothing_and_the_node_goes_on_by_itself",
    ),
    Fault(
        "disk full",
        "analyze",
        "result objects cannot be written for longer than a job has tries",
        "the study waits and is analysed once when there is space",
        "tests/faults/test_disk_full.py::test_a_study_waits_for_the_disk_however_often_it_is_tried",
    ),
    Fault(
        "disk full",
        "receive",
        "the disk says that it is full only at fsync, at the sync of a folder, or at the commit",
        "C-STORE is answered 0xA700, no file and no row is left, and the image is taken when there is space",
        "tests/faults/test_disk_full.py::test_an_image_that_the_disk_did_not_take_is_refused_and_leaves_nothing",
    ),
    Fault(
        "database locked",
        "all",
        "another program holds the lock of the SQLite database for longer than the node waits for it",
        "C-STORE is answered 0xA700; the stages wait; nothing is lost, no process ends",
        "tests/faults/test_database_gone.py::test_a_database_that_another_program_locks_is_waited_for",
    ),
    Fault(
        "database gone",
        "all",
        "the file of the SQLite database is away, and back",
        "no empty database is made in its place by a process that knew it; it is used again once it is back",
        "tests/faults/test_database_gone.py::test_a_database_whose_file_is_gone_is_waited_for_and_not_made_anew",
    ),
    Fault(
        "database read-only",
        "all",
        "the file system turns read-only, as after an error of the disk",
        "it counts as one that may come back: jobs wait",
        "tests/faults/test_database_gone.py::"
        "test_a_database_on_a_file_system_that_turned_read_only_is_one_that_may_come_back",
    ),
    Fault(
        "PostgreSQL stopped",
        "all",
        "the server is killed, or shut down, in the middle, and started again",
        "C-STORE is answered 0xA700 meanwhile; everything is analysed and reported once; no process ends",
        "tests/faults/test_database_gone.py::test_a_postgresql_server_that_ends_in_the_middle_is_waited_for",
    ),
    Fault(
        "clock set",
        "all",
        "the clock is set by a day, ahead or back, while a study waits",
        "it and a later one are analysed and reported once, neither a day later",
        "tests/faults/test_clock_set.py::test_a_node_whose_clock_is_set_by_a_day_goes_on",
    ),
    Fault(
        "clock set",
        "work",
        "the clock is set ahead by a day while jobs are leased",
        "no lease is taken from a worker that lives; one of a dead worker is taken once it ran out by the new time",
        "tests/faults/test_clock_set.py::test_set_ahead_by_a_day_the_clock_takes_no_lease_from_the_living",
    ),
    Fault(
        "clock set",
        "upkeep",
        "the clock is set back by a day while jobs wait, are leased, or are to be tried again",
        "each waits as long as it was to, the lease of a dead worker a minute",
        "tests/faults/test_clock_set.py::test_set_back_by_a_day_the_clock_leaves_nothing_waiting_for_a_day",
    ),
    Fault(
        "clock set",
        "upkeep",
        "the clock is set back by a day",
        "the tasks of upkeep go on at once, and the audit trail tells of the jump",
        "tests/faults/test_clock_set.py::test_tasks_of_upkeep_run_on_when_the_clock_was_set_back",
    ),
    Fault(
        "clock set",
        "upkeep",
        "the clock runs ahead by more than an hour while the node runs",
        "retention deletes nothing until it is right or the stage is started anew",
        "tests/faults/test_clock_set.py::test_retention_deletes_nothing_by_a_clock_that_ran_ahead",
    ),
    Fault(
        "clock set",
        "worklist",
        "the clock is set back after somebody signed in",
        "the session is over",
        "tests/faults/test_clock_set.py::test_a_session_from_before_the_clock_was_set_back_is_over",
    ),
    Fault(
        "PACS half-open",
        "deliver",
        "a PACS takes connections and never says a word",
        "its reports wait and arrive once it answers; other destinations get theirs meanwhile",
        "tests/faults/test_pacs.py::"
        "test_a_pacs_that_takes_connections_and_says_nothing_is_waited_for_and_holds_up_no_other",
    ),
    Fault(
        "PACS refusing",
        "deliver",
        "a PACS answers 0xA700, 0xB000, 0xB007 or 0x0111",
        "it holds the report once: 0xA700 is tried again, the others are as good as Success",
        "tests/faults/test_pacs.py::test_what_a_pacs_answers_leads_to_one_report_there",
    ),
    Fault(
        "PACS restarting",
        "deliver",
        "a PACS is restarted between objects and with one in its hands",
        "it gets every report, as the same bytes under the same UID",
        "tests/faults/test_pacs.py::test_a_pacs_that_is_restarted_again_and_again_gets_every_report_as_one",
    ),
    Fault(
        "poison",
        "analyze",
        "a study ends every process that works on it",
        "it is given up after five tries and told of as failed; every other study is analysed meanwhile",
        "tests/faults/test_poison_and_hang.py::"
        "test_a_study_that_kills_every_worker_is_given_up_and_told_and_the_others_are_done",
    ),
    Fault(
        "hang",
        "analyze",
        "a worker hangs past the end of its lease and wakes up later",
        "another does the job; what the late one found is dropped: one result",
        "tests/faults/test_poison_and_hang.py::"
        "test_a_worker_that_hangs_loses_its_job_to_another_and_keeps_nothing_when_it_wakes",
    ),
    Fault(
        "hang",
        "deliver",
        "a worker hangs after the PACS answered Success and wakes up later",
        "another sends the same bytes under the same UID: the PACS holds one object",
        "tests/faults/test_poison_and_hang.py::test_a_report_of_a_delivery_that_hung_is_the_same_for_the_pacs",
    ),
)

# What strangers, bytes and files do to the part that meets them; no whole node is run. `holds` is what is asserted.
HOSTILE: tuple[Fault, ...] = (
    Fault(
        "strangers",
        "receive",
        "a thousand connections are made and dropped at full speed, as load balancers and port scans do",
        "no connection, thread or descriptor stays, the log is not filled, images are taken before and after",
        "tests/cxr_node/receive/test_strangers.py::test_a_thousand_probes_leave_nothing_and_fill_no_log",
    ),
    Fault(
        "strangers",
        "receive",
        "connections say nothing, or a byte now and then, or stop within a request or an image",
        "the others are served meanwhile; the silent ones are ended",
        "tests/cxr_node/receive/test_strangers.py::test_slow_and_silent_peers_hold_up_nobody_and_are_ended",
    ),
    Fault(
        "strangers",
        "receive, TLS",
        "a caller connects to the TLS port and never begins the handshake",
        "others with their certificates are let in and served meanwhile",
        "tests/cxr_node/receive/test_tls.py::test_a_known_certificate_is_let_in_while_another_caller_says_nothing",
    ),
    Fault(
        "strangers",
        "receive",
        "one caller asks for as many associations as it can",
        "it is refused past its share, in passing; another caller is let in",
        "tests/cxr_node/receive/test_strangers.py::test_a_flood_of_one_caller_leaves_room_for_others",
    ),
    Fault(
        "strangers",
        "receive",
        "lengths in a PDU or a command lie, or fragments never end",
        "that association is ended, no other; what was acknowledged stays",
        "tests/cxr_node/receive/test_strangers.py::test_lengths_that_lie_end_their_association_and_no_other",
    ),
    Fault(
        "no handles",
        "receive",
        "the process has no file handle left",
        "callers are refused until there are some again; nothing acknowledged is lost",
        "tests/cxr_node/receive/test_strangers.py::test_out_of_handles_it_refuses_recovers_and_loses_nothing",
    ),
    Fault(
        "large study",
        "receive",
        "image after image of one study comes over one association",
        "each costs as many statements as the first ones; one study, one job (10,000 of them: benchmark large_study)",
        "tests/cxr_node/receive/test_strangers.py::test_each_image_of_a_large_study_costs_the_same",
    ),
    Fault(
        "hostile image",
        "analyze",
        "a deflated dataset inflates without end",
        "it is refused before it is inflated",
        "tests/cxr_node/imaging/test_decode.py::test_a_deflated_bomb_is_refused_before_it_is_inflated",
    ),
    Fault(
        "hostile image",
        "page where images can be tried",
        "a header states 50,000 x 50,000 pixels",
        "no pixel is decoded; the image is excluded with its reason",
        "tests/cxr_node/analyze/test_drops.py::test_a_dataset_that_states_50_000_by_50_000_pixels_is_not_decoded",
    ),
    Fault(
        "altered image",
        "analyze",
        "the bytes of one stored image are not those that were received, and another's are gone",
        "both are excluded with their reason, and the third is looked at",
        "tests/cxr_node/analyze/test_lent.py::"
        "test_an_altered_image_is_excluded_and_the_others_of_its_study_are_analysed",
    ),
    Fault(
        "damaged model",
        "analyze",
        "a file of a model package is not the one that was released, at the start",
        "the package is refused and Health names the file; jobs wait",
        "tests/cxr_node/analyze/test_models.py::"
        "test_a_package_that_is_damaged_at_the_start_is_refused_and_the_jobs_wait",
    ),
)
