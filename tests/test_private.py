"""What amatune uses of Ray and Optuna that they do not promise to keep: where a public way exists
it is taken, and each of the others is here, with what it is for."""

import ast
import inspect
import re
from pathlib import Path

import optuna
import ray
from ray._private import ray_constants, services, worker

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for name in ("amatune", "trainables", "search_spaces")
    for path in (ROOT / name).rglob("*.py")
]
# File -> what it takes. `OwnProcesses` and `_logging_to` say why.
TAKEN = {
    "amatune/cluster/connection.py": {"ray._private.worker"},
    "amatune/cluster/joined.py": {"ray._private.worker"},
    "amatune/cluster/processes.py": {"ray._private.ray_constants", "ray._private.services"},
    "amatune/tuning/session.py": {"_trial_id"},
}


def private_names(source: str) -> set[str]:
    """Modules of `ray._private` that a source names, and the private attributes that Optuna's
    studies and trials have."""
    found = set(re.findall(r"ray\._private\.\w+", source))
    for group in re.findall(r"from ray\._private import ([\w, ]+)", source):
        found |= {f"ray._private.{name.strip()}" for name in group.split(",")}
    optunas = {"_trial_id", "_storage", "_study_id"}
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    of_others = [
        node
        for node in attributes
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    return found | ({node.attr for node in of_others} & optunas)


def test_nothing_private_is_used_that_is_not_listed_here() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in SOURCES
        if (names := private_names(path.read_text(encoding="utf-8")))
    }
    assert found == TAKEN


def test_ray_still_prints_through_the_function_that_is_replaced() -> None:
    assert callable(getattr(worker, "print_to_stdstream", None)), (
        "ray._private.worker.print_to_stdstream is gone: what Ray prints of dying workers would "
        "reach the user's terminal; see amatune/cluster/connection.py, _logging_to"
    )
    assert "print_to_stdstream" in inspect.getsource(worker.listen_error_messages), (
        "Ray tells of dying workers by other means than print_to_stdstream; see _logging_to"
    )


def test_ray_still_starts_its_processes_through_the_class_that_is_replaced() -> None:
    assert "ConsolePopen(" in inspect.getsource(services.start_ray_process), (
        "Ray starts its processes by other means than services.ConsolePopen: they would not be in "
        "sessions of their own; see amatune/cluster/processes.py"
    )
    assert hasattr(ray_constants, "ENABLE_RAY_CLUSTER"), (
        "ray_constants.ENABLE_RAY_CLUSTER is gone: a search's own cluster would listen on all "
        "interfaces; see amatune/cluster/processes.py"
    )
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services), (
        "Ray decides in another place where its processes listen; see amatune/cluster/processes.py"
    )
    options = inspect.signature(ray.init).parameters
    assert "kwargs" in options, (
        "ray.init takes no _temp_dir and _system_config any more; see "
        "amatune/cluster/connection.py, _own_cluster"
    )


def test_ray_still_has_the_node_of_a_cluster_that_was_joined() -> None:
    assert hasattr(worker, "_global_node"), (
        "ray._private.worker._global_node is gone: the loss of a joined cluster would be told of "
        "late; see amatune/cluster/joined.py"
    )


def test_an_optuna_trial_can_still_be_taken_up_by_its_number_in_the_storage() -> None:
    """A search that goes on takes up trials that were running; Optuna has no `ask` for them."""
    study = optuna.create_study(direction="maximize")
    begun = study.ask()
    value = begun.suggest_float("x", 0.0, 1.0)
    begun.report(0.5, 3)
    (frozen,) = study.get_trials(deepcopy=False)
    assert hasattr(frozen, "_trial_id"), (
        "Optuna's trials have no _trial_id any more, by which amatune/tuning/session.py takes up "
        "the trials that a killed search has left running"
    )
    again = optuna.Trial(study, frozen._trial_id)
    assert again.number == begun.number
    assert again.suggest_float("x", 0.0, 1.0) == value, (
        "a trial that is taken up again draws its settings anew; see amatune/tuning/session.py"
    )
    study.tell(again, 0.7)
    (ended,) = study.get_trials()
    assert (ended.value, ended.intermediate_values) == (0.7, {3: 0.5})
