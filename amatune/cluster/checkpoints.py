"""The checkpoints of trainings, as Ray Tune writes them below `trials/`.

    trials/0012/checkpoint_000003/       training "0012", first session that ran it
    trials/0012.2/checkpoint_000000/     the same, continued by a later session

Each session has a folder of its own, so that a new checkpoint never overwrites one that may still
be needed. The place is a folder or a URI such as s3://bucket/run.
"""

import logging

from pyarrow import fs  # type: ignore[import-untyped]

from amatune.errors import RequestError, is_out_of_space

CHECKPOINT_FILE = "checkpoint.pt"

logger = logging.getLogger(__name__)


def is_trained_at(*places: str) -> bool:
    """Whether trainings have left folders at one of the places, folders or URIs. No, where one
    cannot be looked at: whoever writes there says what is wrong."""
    try:
        return any(_folders_in(*fs.FileSystem.from_uri(place)) for place in places)
    except (OSError, ValueError, NotImplementedError, ImportError):
        return False


class Checkpoints:
    """The checkpoints below `place`, a folder or URI that Ray Tune writes into.

    Raises `RequestError` where nothing can be written: no network, no credentials, no folder.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        try:
            self._files, self._root = fs.FileSystem.from_uri(place)
            self._files.create_dir(self._root, recursive=True)
        except (OSError, ValueError, NotImplementedError, ImportError) as error:
            if is_out_of_space(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise RequestError(
                f"trials cannot be kept at {place}: {reason}; name another --storage-path, or see "
                "that it can be reached and written to"
            ) from error
        self._given: dict[str, int] = {}  # number of the newest folder, by training

    def next_folder(self, training: str) -> str:
        """A name for the folder of a training that is begun or taken up again.

        No name twice, also before anything has been written there: Tune would add to it.
        """
        given = self._given.get(training, 0)
        number = max([given, *map(_number, self._folders(training))]) + 1
        self._given[training] = number
        return training if number == 1 else f"{training}.{number}"

    def newest_first(self, training: str) -> list[str]:
        """The training's checkpoints, as paths or URIs that `tune.Checkpoint` opens.

        The newest may have been cut short by a kill; then the one before it is still there.
        """
        found = []
        for folder in reversed(self._folders(training)):
            inside = self._list(f"{self._root}/{folder}")
            names = sorted((f for f in inside if f.startswith("checkpoint_")), reverse=True)
            found += [f"{self._place.rstrip('/')}/{folder}/{name}" for name in names]
        return found

    def delete(self, training: str) -> None:
        """Remove the training's checkpoints; its other files stay. What cannot be removed stays
        too: the training is over, and its results are kept."""
        try:
            for folder in self._folders(training):
                for name in self._list(f"{self._root}/{folder}"):
                    if name.startswith("checkpoint_"):
                        self._files.delete_dir(f"{self._root}/{folder}/{name}")
        except OSError as error:
            logger.warning("checkpoints of %s were left at %s: %s", training, self._place, error)

    def _folders(self, training: str) -> list[str]:
        """Oldest session first."""
        names = self._list(self._root)
        found = [n for n in names if n == training or n.startswith(f"{training}.")]
        return sorted(found, key=_number)

    def _list(self, path: str) -> list[str]:
        return _folders_in(self._files, path)


def _folders_in(files: fs.FileSystem, path: str) -> list[str]:
    infos = files.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in infos if info.type == fs.FileType.Directory]


def _number(folder: str) -> int:
    return int(folder.partition(".")[2] or 1)
