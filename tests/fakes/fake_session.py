"""A session of a search over a study in a file, without Ray."""

from fake_method import FakeConfig, space
from fake_search import request, write_record

from amatune.cluster.checkpoints import Checkpoints
from amatune.cluster.job import Progress
from amatune.runs import RunFolder
from amatune.tuning import study as studies
from amatune.tuning.session import Session
from amatune.tuning.stopping import make_pruner
from amatune.tuning.study import open_study


def open_session(
    tmp_path, grace=1, listener=None, first=None, early_score=None, run_id="", **changes
):
    """A session over the run's study, which is made when there is none."""
    asked = request(tmp_path, **changes)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir(exist_ok=True)
    write_record(run, asked)
    pruner = make_pruner(asked.scheduler, asked.epochs, grace)
    if not run.study_path.exists():
        studies.create_study(run, [first or {}], asked.study_storage)
    studies.take_over(run)
    study = open_study(run, pruner)

    def complete(settings):
        return FakeConfig.from_dict({**settings, "epochs": asked.epochs})

    checkpoints = Checkpoints(str(run.trials))
    events = [].append if listener is None else listener
    about = study, asked, run, checkpoints, space, complete, events
    return Session(*about, early_score=early_score, run_id=run_id), study


def play(session, values, early=None):
    """Run all that is left of a session, one trial after the other; `values(number, epoch)`, and
    likewise what trials are compared by."""
    key = "the one that runs"
    while job := session.start(key):
        session.started(key)
        for epoch in range(1, job.config["epochs"] + 1):
            number = int(job.folder.partition(".")[0])
            auroc = values(number, epoch)
            compared = early(number, epoch) if early else None
            progress = Progress(epoch=epoch, auroc=auroc, early=compared)
            last = epoch == job.config["epochs"]
            if last or session.report(key, progress):
                session.finish(key, progress)
                break
