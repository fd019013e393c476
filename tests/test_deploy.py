"""What deploy/ holds: valid files, options that exist, a Slurm script that does what it says."""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import check, command_lines
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
CLUSTERS = ("ray-cluster.yaml", "ray-cluster-local.yaml")
CHECKER = Path(sys.executable).parent / "shellcheck"


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def kuberay(kind: str) -> list[dict[str, Any]]:
    return [
        part for part in yaml.safe_load_all(read("kuberay-rayjob.yaml")) if part["kind"] == kind
    ]


def search_script() -> str:
    (config_map,) = kuberay("ConfigMap")
    return str(config_map["data"]["search.sh"])


# --- command lines and shell ----------------------------------------------------------------------


def scripts() -> Iterator[tuple[str, str]]:
    yield "slurm.sh", read("slurm.sh")
    yield "search.sh of kuberay-rayjob.yaml", search_script()
    for name in CLUSTERS:
        config = yaml.safe_load(read(name))
        commands = [c for key, value in config.items() if key.endswith("_commands") for c in value]
        yield name, "#!/bin/bash\n" + "\n".join(commands) + "\n"


@pytest.mark.parametrize(("name", "script"), [pytest.param(*s, id=s[0]) for s in scripts()])
def test_shell_is_sound(name: str, script: str) -> None:
    options = ["--shell", "bash", "--severity", "style", "-"]
    if name in CLUSTERS:
        options.insert(0, "--exclude=SC2016")  # .bashrc gets the variable, not its value
    done = subprocess.run(
        [CHECKER, *options], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name}:\n{done.stdout}"


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_option_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    found = [(words, problem) for words in command_lines(text) if (problem := check(words))]
    assert not found


def test_the_scripts_call_amatune() -> None:
    for script in (search_script(), read("slurm.sh")):
        called = [words[0] for words in command_lines(script) if words]
        assert called[-2:] == ["search", "best"]
        search = next(w for w in command_lines(script) if w[:1] == ["search"] and "--address" in w)
        assert search[search.index("--address") + 1] == "auto"
        assert "--storage-path" in search


# --- Ray's cluster launcher -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_is_what_ray_wants(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(read(name))
    prepared = prepare_config(config)
    validate_config(prepared)
    # A search counts its places when it begins: machines that come later would stay idle.
    workers = prepared["max_workers"]
    if config["provider"]["type"] == "local":
        assert len(config["provider"]["worker_ips"]) == config["min_workers"] == workers
    else:
        (worker,) = (t for n, t in config["available_node_types"].items() if n != "head")
        assert worker["min_workers"] == worker["max_workers"] == workers


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_wants_the_token_and_hides_its_dashboard(name: str) -> None:
    config = yaml.safe_load(read(name))
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    # On the head the launcher reads them where it put them, and does not expand `~` there.
    assert all(target.startswith("/") for target in config["file_mounts"])
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    for command in starts:
        assert_ray_start_takes(command.partition("ray start")[2].split())


def assert_ray_start_takes(words: list[str]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used
    assert used <= known


def test_what_the_launcher_installs_beside_amatune_goes_with_the_constraints() -> None:
    """The launcher's machines have boto3, whose botocore wants python-dateutil<3."""
    installs = [c for c in yaml.safe_load(read("ray-cluster.yaml"))["setup_commands"] if "pip" in c]
    assert "boto3" in installs[-1]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^python-dateutil==(\S+)$", constraints, re.MULTILINE)
    assert version in SpecifierSet(">=2.1,<3")


# --- Kubernetes -----------------------------------------------------------------------------------


def test_the_ray_job_is_complete() -> None:
    (job,) = kuberay("RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    cluster = job["spec"]["rayClusterSpec"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}\n" in constraints
    assert cluster["authOptions"] == {"mode": "token"}
    claims = {
        claim["metadata"]["name"]: claim["spec"] for claim in kuberay("PersistentVolumeClaim")
    }
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["replicas"] == worker["minReplicas"] == worker["maxReplicas"]

    places: dict[str, dict[str, str]] = {}
    for group in (cluster["headGroupSpec"], worker):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        places[container["name"]] = {
            mount["mountPath"]: volumes[mount["name"]]
            .get("persistentVolumeClaim", {})
            .get("claimName", mount["name"])
            for mount in container["volumeMounts"]
        }
    head, gpu = places["ray-head"], places["ray-worker"]
    # SQLite on a device of the head's own, checkpoints where all can write.
    assert claims[head["/runs"]]["accessModes"] == ["ReadWriteOnce"]
    assert claims[head["/shared"]]["accessModes"] == ["ReadWriteMany"]
    assert gpu == {"/shared": head["/shared"]}
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] >= 1
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    # The entrypoint is the script of the ConfigMap, where the head mounts it.
    assert job["spec"]["entrypoint"].split() == ["sh", "/etc/amatune/search.sh"]
    assert head["/etc/amatune"] == "search"


@pytest.mark.parametrize("again", [False, True])
def test_another_attempt_continues_the_search(tmp_path: Path, again: bool) -> None:
    script = search_script().replace("/runs", str(tmp_path / "runs"))
    log = fakes(tmp_path, amatune="")
    if again:
        (tmp_path / "runs" / "parts").mkdir(parents=True)
        (tmp_path / "runs" / "parts" / "run.json").touch()
    path = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", script], check=True, env=path)
    first, second = calls(log)
    assert first[:2] == ["amatune", "search"]
    assert ("--resume" in first) == again
    assert ("--dataset" in first) != again
    assert second[:3] == ["amatune", "best", "parts"]


# --- Docker ---------------------------------------------------------------------------------------


def test_the_image_is_built_of_what_is_there() -> None:
    text = re.sub(r"\\\n", " ", read("Dockerfile"))
    steps = [line.split(maxsplit=1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    values: dict[str, list[str]] = {}
    for step, rest in steps:
        values.setdefault(step, []).append(rest)
    (base,) = values["FROM"]
    assert re.fullmatch(r"[a-z/.]+:[\w.-]*\d[\w.-]*", base), base
    assert "latest" not in base
    for copied in values["COPY"]:
        *sources, _target = copied.split()
        assert all((ROOT / source).exists() for source in sources), copied
    installs = [run for run in values["RUN"] if "pip install" in run]
    assert all("--no-cache-dir" in run for run in installs)
    assert "--constraint constraints.txt" in installs[0]
    # The source comes after what it needs, so that a change of it leaves that layer alone.
    assert "--no-deps" in installs[-1]
    order = [step for step, rest in steps if step in ("USER", "ENTRYPOINT")]
    assert order == ["USER", "ENTRYPOINT"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values["USER"][0])
    assert values["ENTRYPOINT"] == ['["amatune"]']
    # Nothing that is copied is kept from the build.
    allowed = {
        line[1:] for line in read("Dockerfile.dockerignore").splitlines() if line.startswith("!")
    }
    assert allowed == {source for copied in values["COPY"] for source in copied.split()[:-1]}


def test_the_image_has_what_a_user_can_need() -> None:
    (program,) = re.findall(r'RUN python -c "(.*?)" >', read("Dockerfile"), re.DOTALL)
    source = program.replace("\\\n", "")
    command = [sys.executable, "-c", source]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    names = everything.removeprefix("amatune[").removesuffix("]").split(",")
    wanted = {*project["dependencies"], *(one for name in names for one in extras[name])}
    assert set(told.splitlines()) == wanted


# --- Slurm ----------------------------------------------------------------------------------------

FAKE_SRUN = """
while [ "${1#--}" != "$1" ]; do shift; done
case $1 in
    ray) [ -z "${HEAD_CODE:-}" ] || exit "$HEAD_CODE"
        trap 'echo "ended $1" >> "$LOG"; exit 0' TERM; while :; do sleep 0.05; done ;;
    *) exec "$@" ;;
esac
"""
# No head answers before it has been started.
FAKE_RAY = """
if [ "$1" = health-check ]; then
    until grep -q '^srun.*ray start --head' "$LOG"; do sleep 0.02; done
    [ -z "${HEAD_CODE:-}" ] || { sleep 0.2; exit 1; }
fi
"""
FAKE_SQUEUE = """
case " ${LISTED:-} " in
    *" ${2#--jobs=} "*) echo "${2#--jobs=} gpu amatune me R 1:00 2 node[1-2]" ;;
    *) echo "slurm_load_jobs error: ${SQUEUE_ERROR:-Invalid job id specified}" >&2; exit 1 ;;
esac
"""
FAKE_AMATUNE = """
while [ "$1" != --name ] && [ "$1" != --runs-dir ]; do shift; done
[ "$1" = --name ] || exit "${BEST_CODE:-0}"
mkdir -p "$4/$2"
echo study > "$4/$2/note"
echo {} > "$4/$2/run.json"
[ -z "${JOURNAL:-}" ] || { echo "$JOURNAL" >> "$4/$2/study.journal"; exit 0; }
"$REAL_PYTHON" -c 'import sqlite3, sys
base = sqlite3.connect(sys.argv[1])
base.execute("create table if not exists trials (number)")
base.execute("insert into trials values (1)")
base.commit()' "$4/$2/study.db"
if [ -n "${WAITS:-}" ]; then
    trap 'exit 130' INT
    touch "$WAITS"
    while :; do sleep 0.05; done
fi
exit "${SEARCH_CODE:-0}"
"""
# Connects to no cluster; everything else is Python.
FAKE_PYTHON = """
case $2 in *ray.init*)
    for _ in {1..200}; do  # until all have joined
        [ "$(grep -c '^srun.*ray start' "$LOG")" -ge "$STEPS" ] && break
        sleep 0.05
    done
    sleep 0.1
    exit 0 ;;
esac
exec "$REAL_PYTHON" "$@"
"""


def fakes(folder: Path, **programs: str) -> Path:
    """Programs in `folder`/bin that note how they are called, then do as told; the log."""
    log = folder / "log"
    (folder / "bin").mkdir()
    for name, body in programs.items():
        path = folder / "bin" / name
        # In one piece: several programs write at the same time.
        note = f'line=$(printf " %q" {name} "$@"); echo "${{line# }}" >> {shlex.quote(str(log))}\n'
        path.write_text(f"#!/bin/bash\n{note}{textwrap.dedent(body)}", encoding="utf-8")
        path.chmod(0o755)
    return log


def calls(log: Path) -> list[list[str]]:
    return [shlex.split(line) for line in log.read_text(encoding="utf-8").splitlines()]


class Slurm:
    """A cluster of nodes node1, node2, ... that exists in the environment alone."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.shared = folder / "shared"
        names = "".join(f"node{n}\\n" for n in range(1, nodes + 1))
        self.log = fakes(
            folder,
            srun=FAKE_SRUN,
            squeue=FAKE_SQUEUE,
            getent="exit 2\n",  # it knows no machine
            scontrol=f'if [ "$1" = show ]; then printf "{names}"; fi\n',
            ray=FAKE_RAY,
            amatune=FAKE_AMATUNE,
            python=FAKE_PYTHON,
        )
        (folder / "venv" / "bin").mkdir(parents=True)
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "STEPS": str(min(nodes, 2)),
            "REAL_PYTHON": sys.executable,
            "AMATUNE_SHARED": str(self.shared),
            "AMATUNE_LOCAL": str(folder / "local"),
            "AMATUNE_VENV": str(folder / "venv"),
            "AMATUNE_HEAD_IP": "192.0.2.1",
            "SLURM_JOB_ID": "123",
            "SLURM_JOB_NAME": "parts",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "2",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        self.log.unlink(missing_ok=True)
        return subprocess.Popen(
            ["bash", str(DEPLOY / "slurm.sh"), *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As a batch system starts it: whoever began the tests may have been deaf to SIGINT,
            # which programs inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of every call of a program."""
        return [call[1:] for call in calls(self.log) if call[0] == program]


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def options(words: list[str]) -> Mapping[str, str]:
    return dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)


def requeued(slurm: Slurm) -> bool:
    return ["requeue", "123"] in slurm.calls("scontrol")


def claim(slurm: Slurm) -> Path:
    """The file that says whose the run is."""
    return slurm.shared / "runs" / "parts.job"


def trials(slurm: Slurm) -> int:
    """Rows in the shared copy of the study."""
    with sqlite3.connect(slurm.shared / "runs" / "parts" / "study.db") as base:
        return int(base.execute("select count(*) from trials").fetchone()[0])


def test_slurm_head_on_the_first_node_workers_on_the_others(slurm: Slurm) -> None:
    code, output = slurm.run("--dataset", "folder:my good", "--trials", "5")
    assert (code, output) == (0, "")
    *steps, remove = slurm.calls("srun")
    head, workers = sorted(steps, key=lambda words: "--head" not in words)  # begun side by side
    assert options(head)["--nodelist"] == "node1"
    assert head[head.index("ray") :][:3] == ["ray", "start", "--head"]
    assert options(workers)["--exclude"] == "node1"
    assert options(workers)["--nodes"] == options(workers)["--ntasks"] == "2"
    assert workers[workers.index("ray") :][:2] == ["ray", "start"]
    port = int(options(head)["--port"])
    assert options(workers)["--address"] == f"192.0.2.1:{port}"
    for step in (head, workers):
        assert (options(step)["--num-cpus"], options(step)["--num-gpus"]) == ("8", "2")
        assert "--block" in step
        assert_ray_start_takes(step[step.index("start") :])
    # Both were ended, then the local folders removed on every node.
    assert slurm.calls("ended") == [["ray"], ["ray"]]
    assert options(remove)["--nodes"] == "3"
    assert remove[-4:-2] == ["rm", "-rf"]
    assert not Path(remove[-2]).exists()

    search, best = slurm.calls("amatune")
    assert search[:5] == ["search", "--dataset", "folder:my good", "--trials", "5"]
    assert "--resume" not in search
    assert best[:2] == ["best", "parts"]
    assert (slurm.shared / "runs" / "parts" / "run.json").exists()
    assert trials(slurm) == 1
    assert not requeued(slurm)


def test_slurm_keeps_a_study_in_a_journal_too(slurm: Slurm) -> None:
    assert slurm.run("--study-storage", "journal", JOURNAL="{}") == (0, "")
    run = slurm.shared / "runs" / "parts"
    assert (run / "study.journal").read_text() == "{}\n"
    assert not list(run.glob("study.*.new"))
    assert slurm.run(JOURNAL="[]", SLURM_RESTART_COUNT="1") == (0, "")
    assert (run / "study.journal").read_text() == "{}\n[]\n"


def test_slurm_on_one_node_starts_no_workers(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, nodes=1)
    assert slurm.run()[0] == 0
    assert [call[call.index("--overlap") + 1 :][:1] for call in slurm.calls("srun")] == [
        ["--nodes=1"],
        ["--nodes=1"],
    ]


def test_slurm_two_jobs_have_ports_of_their_own(slurm: Slurm) -> None:
    ports: list[set[int]] = []
    for job in ("123", "124"):
        assert slurm.run(SLURM_JOB_ID=job)[0] == 0
        head = options(slurm.calls("srun")[0])
        ports.append({int(value) for key, value in head.items() if key.endswith("-port")})
    assert len(ports[0]) == 3
    assert not ports[0] & ports[1]


def test_slurm_before_the_time_limit_the_search_is_ended_and_the_job_requeued(
    slurm: Slurm, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    process = slurm.start("--trials", "5", WAITS=str(started))
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [call[0] for call in slurm.calls("amatune")] == ["search"]
    assert len(slurm.calls("ended")) == 2
    assert requeued(slurm)
    assert calls(slurm.log)[-1][0] == "scontrol"  # after everything else
    assert trials(slurm) == 1
    assert claim(slurm).read_text() == "123\n"  # no other job may have the run meanwhile

    # Back from the queue, on a node that knows nothing.
    assert slurm.run("--trials", "5", SLURM_RESTART_COUNT="1")[0] == 0
    search = slurm.calls("amatune")[0]
    assert search[:3] == ["search", "--resume", "--name"]
    assert trials(slurm) == 2
    assert not requeued(slurm)

    # Submitted anew, it may ask for more.
    assert slurm.run("--trials", "9")[0] == 0
    assert slurm.calls("amatune")[0][:4] == ["search", "--trials", "9", "--resume"]


def test_slurm_a_cancelled_job_is_not_requeued(slurm: Slurm, tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = slurm.start(WAITS=str(started))
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same sbatch command continues it, without --enqueue" in output
    assert not requeued(slurm)
    assert trials(slurm) == 1
    assert not claim(slurm).exists()


@pytest.mark.parametrize(
    ("codes", "code", "again"),
    [
        ({"SEARCH_CODE": "1"}, 1, False),
        ({"SEARCH_CODE": "2"}, 2, False),
        ({"SEARCH_CODE": "130"}, 130, True),
        ({"BEST_CODE": "130"}, 130, True),
        ({"BEST_CODE": "1"}, 1, False),
    ],
)
def test_slurm_passes_on_what_amatune_says(
    slurm: Slurm, codes: dict[str, str], code: int, again: bool
) -> None:
    assert slurm.run(**codes)[0] == code
    assert requeued(slurm) == again
    assert len(slurm.calls("ended")) == 2  # shut down in any case
    commands = [call[0] for call in slurm.calls("amatune")]
    assert commands == (["search"] if "SEARCH_CODE" in codes else ["search", "best"])


def test_slurm_after_a_lost_node_no_checkpoint_outlives_its_trial(slurm: Slurm) -> None:
    checkpoint = slurm.shared / "checkpoints" / "parts" / "trials" / "0001"
    assert slurm.run()[0] == 0
    checkpoint.mkdir(parents=True)
    assert slurm.run()[0] == 0  # the copy is as new as the checkpoints
    assert checkpoint.exists()
    (slurm.shared / "runs" / "parts.complete").unlink()
    assert slurm.run()[0] == 0
    assert not checkpoint.exists()


def test_slurm_an_address_that_others_cannot_reach_is_refused(slurm: Slurm) -> None:
    for address in ("127.0.1.1", ""):  # without one, what its name resolves to: nothing
        code, output = slurm.run(AMATUNE_HEAD_IP=address)
        assert code == 2
        assert f"node1 resolves to '{address}', which other nodes cannot reach" in output
        assert "set AMATUNE_HEAD_IP" in output
        assert not slurm.calls("srun")


@pytest.mark.parametrize(
    "environment",
    [{"LISTED": "122 124"}, {"SQUEUE_ERROR": "Unable to contact slurm controller"}],
)
def test_slurm_another_jobs_run_is_left_alone(slurm: Slurm, environment: dict[str, str]) -> None:
    assert slurm.run()[0] == 0
    claim(slurm).write_text("124\n")
    code, output = slurm.run(**environment)
    assert code == 2
    assert "job 124 works on the run parts; give this search an AMATUNE_NAME of its own" in output
    assert not slurm.calls("srun")
    assert claim(slurm).read_text() == "124\n"
    assert trials(slurm) == 1


def test_slurm_a_run_is_taken_over_from_a_job_that_is_over(slurm: Slurm) -> None:
    assert slurm.run()[0] == 0
    for owner in ("122", "123"):  # a job that was killed, and this one, back from the queue
        claim(slurm).write_text(f"{owner}\n")
        assert slurm.run(LISTED="123")[0] == 0
        assert not claim(slurm).exists()
    assert trials(slurm) == 3


def test_slurm_a_job_that_has_just_made_the_claim_is_not_robbed_of_it(slurm: Slurm) -> None:
    claim(slurm).parent.mkdir(parents=True)
    claim(slurm).touch()  # the number is not in it yet
    code, output = slurm.run()
    assert code == 2
    assert f"remove {claim(slurm)} if that job is over" in output


def test_slurm_the_tasks_of_an_array_have_names_of_their_own(slurm: Slurm) -> None:
    assert slurm.run(SLURM_ARRAY_TASK_ID="7")[0] == 0
    assert [path.name for path in (slurm.shared / "runs").iterdir() if path.is_dir()] == ["parts-7"]


@pytest.mark.parametrize("name", ["..", "a/b", "my run", "-x"])
def test_slurm_what_is_no_name_of_a_run_is_refused(slurm: Slurm, name: str) -> None:
    code, output = slurm.run(AMATUNE_NAME=name)
    assert code == 2
    assert f"'{name}' cannot be the name of a run" in output
    assert not slurm.shared.exists()


def test_slurm_a_run_whose_name_begins_like_the_study_is_kept_too(slurm: Slurm) -> None:
    assert slurm.run(AMATUNE_NAME="study.parts")[0] == 0
    run = slurm.shared / "runs" / "study.parts"
    assert sorted(path.name for path in run.iterdir()) == ["note", "run.json", "study.db"]


@pytest.mark.parametrize(
    ("words", "trusted"),
    [
        (["--space", "space.py"], True),
        (["--space=space.py"], True),
        (["--trust-space"], True),
        (["--trials", "5"], False),
    ],
)
def test_slurm_back_from_the_queue_the_program_of_a_run_is_still_trusted(
    slurm: Slurm, words: list[str], trusted: bool
) -> None:
    assert slurm.run(*words)[0] == 0
    assert slurm.run(*words, SLURM_RESTART_COUNT="1")[0] == 0
    search = slurm.calls("amatune")[0]
    trust = ["--trust-space"] if trusted else []
    assert search[: search.index("--name")] == ["search", *trust, "--resume"]


def test_slurm_checkpoints_of_a_node_that_was_lost_before_the_first_copy_go(slurm: Slurm) -> None:
    """A new run would be refused, as another one of its name has trained there."""
    checkpoint = slurm.shared / "checkpoints" / "parts" / "trials" / "0000"
    checkpoint.mkdir(parents=True)
    (slurm.shared / "runs").mkdir()
    complete = slurm.shared / "runs" / "parts.complete"
    complete.touch()  # of a job whose head has not started
    assert slurm.run("--trials", "5", SLURM_RESTART_COUNT="1", SEARCH_CODE="1")[0] == 1
    assert not checkpoint.exists()
    assert slurm.calls("amatune")[0][:3] == ["search", "--trials", "5"]


def test_slurm_a_head_that_has_ended_is_not_waited_for(slurm: Slurm) -> None:
    code, output = slurm.run(HEAD_CODE="1")
    assert code == 1
    assert "slurm.sh: the Ray head has ended" in output
    assert len([call for call in slurm.calls("ray") if call[0] == "health-check"]) <= 2
    assert not claim(slurm).exists()
