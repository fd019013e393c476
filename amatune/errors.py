"""The errors a user can act on.

Every message says what was wrong, what is allowed and what to do next. The command line catches
`AmatuneError` alone and exits with its `exit_code`; anything else is a bug and keeps its traceback.
Each class takes one message, so that errors survive pickling between processes.
"""

import difflib
import errno
from collections.abc import Iterable


class AmatuneError(Exception):
    """Base class: the work was started and failed."""

    exit_code = 1


class RequestError(AmatuneError):
    """The request cannot be carried out as it was made."""

    exit_code = 2


class ConfigError(RequestError):
    """A detector's configuration has unknown names or impossible values."""


class DataError(RequestError):
    """The images that were named cannot be found, read or used."""


class DivergedError(AmatuneError):
    """Training produced NaN or infinite losses; the configuration is unusable."""


class OutOfMemoryError(AmatuneError):
    """A device, or the machine, has too little memory for what was asked of it."""


class ClusterLostError(AmatuneError):
    """The cluster that the work runs on has died or cannot be reached; what is finished is kept."""


class DiskFullError(AmatuneError):
    """A file could not be written because no space is left."""


class TrainingWarning(RuntimeWarning):
    """What a method says against a training of its own that went to its end: its scores may not
    mean what they should. `Detector.calibrate` warns of it; searches and retrainings tell it."""


def is_out_of_space(error: BaseException) -> bool:
    """Whether the system says by this error that no space is left, on a disk or of a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A ready-made tail for an error message: the closest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
