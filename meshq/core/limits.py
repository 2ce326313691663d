"""A cap on everything that a stranger, a caller or a peer can make grow."""

from __future__ import annotations

# -- in messages, whoever sends them ---------------------------------------------------------------------

EPOCH_MAX = 1 << 48
BATCH_TASKS_MAX = 100_000
OUTCOMES_MAX = 10_000
CLAIMS_MAX = 20_000
WAIT_IDS_MAX = 100_000
NAME_CHARS_MAX = 200
KEY_CHARS_MAX = 200
CREDENTIAL_NAME_CHARS_MAX = 64
CREDENTIALS_MAX = 1000
ERROR_BYTES_MAX = 64 << 10
WAIT_S_MAX = 60.0
PAGE_TASKS_MAX = 1000
PULL_FRAME_BYTES = 1 << 20
FRAME_BYTES_MAX = 64 << 20
JOBS_PER_GET_MAX = 4096
ANSWER_BYTES_MAX = 8 << 20
HINTS_MAX = 64
ID_CHARS_MIN = 4
ID_CHARS_MAX = 64
ATTEMPT_MAX = 1 << 31
ATTEMPTS_AHEAD_MAX = 1000
PRIORITY_MAX = 1_000_000
RETRIES_MAX = 1_000
TIMEOUT_S_MAX = 30 * 86400.0
RUNNING_MAX = 1_000_000
CHECKPOINT_BYTES_MAX = 1 << 20
KEEP_S_MAX = 10 * 365 * 86400.0
NOTE_CHARS_MAX = 200
TIME_MS_MAX = 1 << 53
# Where a field has no cap of its own.
TEXT_CHARS_MAX = 100_000
ENTRIES_MAX = 100_000
ITEM_CHARS_MAX = 1000
# Words that become names of counters, or that many nodes keep.
WORD_CHARS_MAX = 64
ROSTER_MAX = 256
WRITERS_MAX = 4096
TASK_NAMES_MAX = 10_000
PARAMS_MAX = 256

# -- in bodies -------------------------------------------------------------------------------------------

DEPTH_MAX = 100
PARTS_MAX = 250_000
SAME_HASH_MAX = 32
SUBMIT_BYTES_MAX = 60 << 20
BODY_DIGITS_MAX = 100_000

# -- at the door -----------------------------------------------------------------------------------------

HANDSHAKE_S = 5.0
CALLS_PER_S = 200.0
CALLS_AT_ONCE = 1000
WAITING_MAX = 512
PROOFS_MAX = 128
PROOFS_PER_S = 300.0
PROOFS_AT_ONCE = 64
# Some 0.3 MiB each, most of it a buffer of TLS: 600 MiB in all.
CONNECTIONS_MAX = 2048
CONNECTIONS_PER_CALLER = 512
CONNECTIONS_LOCAL_MAX = 1024
LINES_PER_MINUTE = 6

# -- of requests -----------------------------------------------------------------------------------------

HEADER_BYTES_MAX = 8190
HEADER_LINES_MAX = 64
HEADER_S = 30.0
BODY_S = 30.0
ANSWER_S = 60.0
BODIES_BYTES_MAX = 256 << 20
BODIES_BYTES_PER_CALLER = 64 << 20
WAITS_MAX = 512
WAITS_PER_CALLER = 128
WAITED_IDS_MAX = 1_000_000
WAITED_IDS_PER_CALLER = 400_000

# -- on links --------------------------------------------------------------------------------------------

# Fewer than connections, so that clients find room beside them.
LINKS_MAX = 1536
IN_FLIGHT_MAX = 1024
BACKLOG_MAX = 8192
BACKLOG_BYTES_MAX = 256 << 20
UNPROVED_MAX = 256
CALLS_MAX = 128

# -- kept by a node --------------------------------------------------------------------------------------

COUNTERS_MAX = 1000
PEERS_MAX = 4096
OUTBOX_TASKS_MAX = 1_000_000
OUTBOX_OWNER_TASKS_MAX = 10_000
# What a task printed, on the node that ran it.
LOG_BYTES_MAX = 1 << 20
