"""What is stopped early, by which figures, and that a kill changes nothing of it."""

import os
import signal

import optuna
import pytest
from fake_session import open_session, play
from optuna.trial import TrialState
from scipy import stats

from amatune.cluster.job import Progress
from amatune.metrics import hanley_mcneil
from amatune.tuning import study as studies
from amatune.tuning.stopping import Halving, decision_epochs, is_noise, make_pruner, rungs
from amatune.tuning.study import trial_update


@pytest.mark.parametrize(
    ("epochs", "grace", "expected"),
    [
        (100, 1, [15, 34]),
        (100, 15, [15, 34]),
        (100, 17, [17, 34]),
        (100, 18, [34]),  # two would be close to each other
        (100, 35, [35]),
        (100, 75, [75]),
        (100, 76, []),
        (25, 1, [4, 9]),
        (25, 4, [4, 9]),
        (25, 14, [14]),
        (30, 4, [5, 10]),
        (9, 1, [3]),
        (5, 2, [2]),
        (3, 1, [1]),
        (2, 1, [1]),
        (1, 1, []),
    ],
)
def test_rungs(epochs, grace, expected):
    assert rungs(epochs, grace) == expected


@pytest.mark.parametrize("grace", [1, 2, 5, 11, 40])
def test_rungs_lie_behind_the_warm_up_and_before_the_end(grace):
    for epochs in range(1, 200):
        levels = rungs(epochs, grace)
        assert all(grace <= level < epochs for level in levels)
        assert levels == sorted(set(levels))
        assert list(decision_epochs("asha", epochs, grace)) == levels


def values(number, epoch):
    """The later a trial, the better it ends; which says nothing about its beginning."""
    return 0.5 + number / 40 if epoch == 3 else 0.6 + (number * 5 % 7) / 50 + epoch / 1000


def early(number, epoch):
    """What trials are compared by: trials 0, 5 and 6 are the best of it."""
    return [0.8, 0.5, 0.51, 0.52, 0.53, 0.81, 0.82, 0.49, 0.48][number] + epoch / 1000


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_trials_are_compared_by_their_early_figure(tmp_path, scheduler):
    session, study = open_session(
        tmp_path, trials=9, epochs=3, scheduler=scheduler, early_score="R"
    )
    play(session, values, early)
    # The first five of the median rule have nothing to be compared with; some of Hyperband's meet
    # no rung in so few epochs.
    spared = {"asha": set(), "median": {1, 2, 3, 4}, "hyperband": {3, 4, 8}}[scheduler]
    assert {t.number for t in study.trials if t.state == TrialState.COMPLETE} == {0, 5, 6} | spared
    for trial in study.trials:
        told = {int(e): v for e, v in trial.user_attrs[studies.EARLY].items()}
        assert told == {e: early(trial.number, e) for e in trial.intermediate_values}
        if trial.state == TrialState.PRUNED:
            epoch = trial.last_step
            assert trial.user_attrs[studies.REASON] == (
                f"AUROC {early(trial.number, epoch):.3f} of R was not among the best at epoch "
                f"{epoch}"
            )
            # What Optuna shows of it, and what ranks the others, is the figure of the end.
            assert trial.value == values(trial.number, epoch)
            update = trial_update(trial, 3)
            assert (update.auroc, update.early) == (trial.value, early(trial.number, epoch))


def test_a_study_without_early_figures_goes_on_by_the_others(tmp_path):
    """As an earlier version wrote it; among its trials new ones are compared like these."""
    session, study = open_session(tmp_path, trials=4, epochs=3)
    play(session, lambda number, _: 0.9 - number / 20)
    assert not any(studies.EARLY in trial.user_attrs for trial in study.trials)
    session, study = open_session(tmp_path, trials=6, epochs=3)
    # By what they are compared by they would be the best, and the worst.
    play(
        session,
        lambda number, _: [0.6, 0.95][number - 4],
        lambda number, _: [0.99, 0.1][number - 4],
    )
    assert [t.state for t in study.trials[4:]] == [TrialState.PRUNED, TrialState.COMPLETE]


def test_a_rung_whose_figures_differ_by_chance_alone_decides_nothing():
    error = hanley_mcneil(0.8, 50, 100)
    far = [0.8 - 1.5 * error, 0.8, 0.8 + 1.5 * error]  # variance 2.25
    near = [0.8 - 1.4 * error, 0.8, 0.8 + 1.4 * error]  # 1.96
    assert stats.tvar(far) / error**2 == pytest.approx(2.25)
    assert not is_noise(far, (50, 100))
    assert is_noise(near, (50, 100))
    assert not is_noise(near, (500, 1000))
    assert not is_noise([0.8], (50, 100))
    assert not is_noise([0.8, 0.8], None)  # the number of images is not known

    def stopped(figures, sides):
        study = optuna.create_study(direction="maximize", pruner=make_pruner("asha", 9, 1, sides))
        for figure in figures:
            trial = study.ask()
            trial.set_user_attr(studies.EARLY, {"3": figure})
            trial.report(0.5, 3)
        return trial.should_prune()

    assert stopped(far[::-1], (50, 100))
    assert not stopped(near[::-1], (50, 100))
    assert stopped(near[::-1], None)


def test_a_trial_with_a_long_warm_up_is_compared_behind_it():
    pruner = Halving([[3, 6]], None)
    study = optuna.create_study(direction="maximize", pruner=pruner)

    def told(grace, figures):
        trial = study.ask()
        trial.set_user_attr(studies.GRACE, grace)
        found = []
        for epoch, figure in figures.items():
            trial.set_user_attr(studies.EARLY, {str(e): figures[e] for e in figures if e <= epoch})
            trial.report(figure, epoch)
            found.append(trial.should_prune())
        return found

    assert told(0, {3: 0.7, 4: 0.7, 6: 0.7, 7: 0.1}) == [False, False, False, False]
    # Its figure at the first rung is the one behind its warm-up, poor as it was in it.
    assert told(4, {3: 0.1, 4: 0.1, 5: 0.8, 6: 0.8}) == [False, False, False, False]
    assert told(4, {3: 0.9, 5: 0.6}) == [False, True]
    # One whose warm-up lasts beyond the second rung meets that alone.
    assert told(6, {3: 0.1, 6: 0.1, 7: 0.9}) == [False, False, False]
    assert told(0, {3: 0.79}) == [True]  # of .7, .8 and .6, and of no .9


def outcome(study):
    return [(t.state, t.value, t.intermediate_values, t.params) for t in study.trials]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_a_rung_changes_nothing(tmp_path, monkeypatch):
    """A process that searches is killed by SIGKILL right at a rung, and another one goes on."""

    def opened(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return open_session(tmp_path / name, trials=7, epochs=3)

    session, whole = opened("whole")
    play(session, values, early)
    stopped = [t.number for t in whole.trials if t.state == TrialState.PRUNED]
    assert stopped == [1, 2, 3, 4]
    decide = optuna.Trial.should_prune
    for number, decided in ((4, False), (4, True), (5, False)):
        name = f"{number} {decided}"

        def dying(trial, number=number, decided=decided):
            if trial.number != number:
                return decide(trial)
            if decided:
                trial.set_user_attr(studies.STOPPED, 1)  # what comes next, as the pruner says so
                assert decide(trial)
            return os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if not child:
            monkeypatch.setattr(optuna.Trial, "should_prune", dying)
            play(opened(name)[0], values, early)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        session, study = opened(name)
        assert study.trials[number].user_attrs[studies.EARLY] == {"1": early(number, 1)}
        assert (studies.STOPPED in study.trials[number].user_attrs) == decided
        play(session, values, early)
        assert outcome(study) == outcome(whole)


def test_who_was_let_go_on_is_not_judged_anew(tmp_path):
    """After the decision other trials were better; a kill then does not turn it round."""
    session, study = open_session(tmp_path, trials=3, epochs=3)
    for key, figure in (("a", 0.6), ("b", 0.7), ("c", 0.8)):
        session.start(key)
        assert not session.report(key, Progress(epoch=1, auroc=figure, early=figure))
    session, study = open_session(tmp_path, trials=3, epochs=3)
    assert all(session.start(key) for key in "abc")
    assert [t.state for t in study.trials] == [TrialState.RUNNING] * 3
