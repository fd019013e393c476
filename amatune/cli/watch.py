"""The test of `amatune score --watch` on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from amatune.cli.output import complain
from amatune.errors import AmatuneError, RequestError
from amatune.wording import counted

if TYPE_CHECKING:
    from amatune.export import AnyExport
    from amatune.export.drift import Watch


def open_watch(exported: "AnyExport", file: Path | None, rate: float | None) -> "Watch | None":
    """Begin a test, or go on with the one in `file`; None without a file.

    Raises `RequestError` for an export without a calibration, an impossible rate or another than
    the test was begun with, and a file that holds no test of this calibration.
    """
    from amatune.export.drift import DEFAULT_ALARM_RATE, Watch

    if file is None:
        if rate is not None:
            raise RequestError("--alarm-rate is that of a watch; give --watch FILE too")
        return None
    if exported.calibration is None:
        raise RequestError(
            f"{exported.folder} was exported without scores of normal images, so that there is "
            "nothing to compare pictures with; leave --watch out, or `amatune recalibrate` it"
        )
    if not file.exists():
        if not file.parent.is_dir():
            raise RequestError(f"cannot write {file}: there is no folder {file.parent}")
        return Watch.begin(exported.calibration, DEFAULT_ALARM_RATE if rate is None else rate, 0)
    watch = Watch.resume(file, exported.calibration)
    if rate not in (None, watch.rate):
        raise RequestError(
            f"the watch {file} was begun with --alarm-rate {watch.rate:g}; leave the option out, "
            "or name a new file"
        )
    return watch


def close_watch(watch: "Watch", file: Path) -> None:
    """Keep the test in its file, and say how it stands. Raises `AmatuneError` when the disk
    refuses."""
    try:
        watch.save(file)
    except OSError as error:
        raise AmatuneError(f"cannot write {file}: {error.strerror or error}") from error
    stands = (
        f"{counted(len(watch.scores), 'picture')}, evidence {watch.evidence:.3g}, alarm at "
        f"{1 / watch.rate:g}"
    )
    if watch.alarm is None:
        complain(f"watch: {stands}")
    else:
        complain(
            f"watch: ALARM at {watch.alarm}: the pictures are no longer those of the calibration, "
            f"or defects are frequent among them ({stands}; a false alarm has a probability of "
            f"{watch.rate:g} at most). Look at them; of good ones, `amatune recalibrate` makes a "
            "new calibration"
        )
