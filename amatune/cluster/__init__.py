"""Ray: the connection, what fits on it, and carrying jobs out.

Ray's switches are environment variables, some of which it reads while it is imported. They are set
here, before any module of this package can import it; one that is set already is left alone.
"""

import os

from amatune.extras import require_extra

require_extra("search")

_RAY = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own progress table, which even verbose=0 does not silence
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files; we write our own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it only logs; see execution.Halt
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a failed trial reports its reason, not a traceback
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's snapshot; nothing of ours is read from it
    # Trials without a GPU do not see any. Else each would take some of its memory: torch's
    # optimisers ask the card whether a graph is being captured.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # several trials share a GPU's memory
}
for _name, _value in _RAY.items():
    os.environ.setdefault(_name, _value)
