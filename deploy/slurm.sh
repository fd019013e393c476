#!/usr/bin/env bash
# A search on a Slurm cluster: a Ray head on the first node, Ray workers on the others.
#
#     sbatch deploy/slurm.sh --dataset folder:/data/good --ood folder:/data/bad --trials 200
#
# All arguments go to `amatune search`. Before the time limit the search is ended in good order and
# the job put back into the queue; it then continues. Once all trials have ended, the best are
# retrained, tested and exported. The same command, submitted once the job is over, continues its
# run, but without --enqueue and --warm-start, which belong to a new one. Each search needs an
# AMATUNE_NAME of its own; the tasks of a job array add their numbers to it. Settings, from the
# environment of sbatch:
#
#     AMATUNE_SHARED   folder that all nodes see: run, checkpoints, export   $PWD/amatune-slurm
#     AMATUNE_NAME     name of the run                                       the job's name
#     AMATUNE_VENV     environment with amatune, the same on all nodes       $PWD/.venv
#     AMATUNE_LOCAL    folder on a disk of each node's own                   $TMPDIR, or /tmp
#     AMATUNE_HEAD_IP  address of the first node, if it is not found         what its name resolves to

#SBATCH --job-name=amatune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
# With job control a background process takes SIGINT; without it bash makes it deaf to that.
set -m

shared=${AMATUNE_SHARED:-$PWD/amatune-slurm}
name=${AMATUNE_NAME:-$SLURM_JOB_NAME}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
local=${AMATUNE_LOCAL:-${TMPDIR:-/tmp}}/amatune-$SLURM_JOB_ID
temporary=/tmp/ray-$SLURM_JOB_ID  # of Ray; its sockets need a short path
nodes=$SLURM_JOB_NUM_NODES
if [[ ! $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
    echo "slurm.sh: '$name' cannot be the name of a run; set AMATUNE_NAME to one of letters," \
        "digits, '.', '_' and '-'" >&2
    exit 2
fi
export PATH="${AMATUNE_VENV:-$PWD/.venv}/bin:$PATH"

# What srun starts sees what this script sees, and all CPUs of its node.
export SLURM_EXPORT_ENV=ALL SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts[0]}
head_ip=${AMATUNE_HEAD_IP:-$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }' || true)}
case $head_ip in
    '' | 127.*)
        echo "slurm.sh: $first resolves to '$head_ip', which other nodes cannot reach; set" \
            "AMATUNE_HEAD_IP to its address" >&2
        exit 2
        ;;
esac

# Ports of this job's own, below those that the system hands out: nodes may be shared.
port=$((20000 + SLURM_JOB_ID % 4000 * 3))
address=$head_ip:$port
# In the environment, where other users do not see it, and not on a command line.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

ray_pids=()
amatune_pid=
saver_pid=
ended_by=

# --- the run's folder -----------------------------------------------------------------------------

# It lies on the first node's own disk, since SQLite and network file systems do not get along, and
# is copied to the shared folder now and then, and at the end.
save() {
    # A consistent copy of the study, also while the search writes. Of the other files some may
    # change or go while they are read (tar's exit code 1); the next copy has them.
    local study=study.db
    if [[ -e $local/runs/$name/study.db ]]; then
        python -c 'import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)' "$local/runs/$name/study.db" "$local/study.db" || return
    elif [[ -e $local/runs/$name/study.journal ]]; then  # --study-storage journal: it only grows
        study=study.journal
        cp "$local/runs/$name/$study" "$local/$study" || return
    else
        return 0
    fi
    {
        tar -C "$local/runs" --anchored --exclude="$name/study.*" --no-anchored --exclude='.*' \
            --ignore-failed-read --warning=no-file-changed --warning=no-file-removed \
            -cf - "$name" || [[ $? -eq 1 ]]
    } | tar -C "$shared/runs" -xf - &&
        cp "$local/$study" "$shared/runs/$name/$study.new" &&
        mv "$shared/runs/$name/$study.new" "$shared/runs/$name/$study"
}

# Two jobs of one name would write the same files and remove each other's checkpoints: the run is
# that job's whose number is in this file. One that was killed leaves it; squeue lists it no more.
claim=$shared/runs/$name.job
owned_by() {
    [[ $(cat "$claim") == "$1" ]]
}
mkdir -p "$shared/runs"
if ! (set -o noclobber && echo "$SLURM_JOB_ID" >"$claim") 2>/dev/null &&
    ! owned_by "$SLURM_JOB_ID"; then
    owner=$(cat "$claim")
    listed=$(squeue --noheader --jobs="$owner" 2>&1) ||
        [[ $listed != *'Invalid job id'* ]] || listed=
    # Other jobs may find out the same at the same time: the last one has it.
    [[ -z $owner || -n $listed ]] || ! owned_by "$owner" || echo "$SLURM_JOB_ID" >"$claim"
    sleep 1
fi
if ! owned_by "$SLURM_JOB_ID"; then
    echo "slurm.sh: job $(cat "$claim") works on the run $name; give this search an AMATUNE_NAME" \
        "of its own, or remove $claim if that job is over" >&2
    exit 2
fi

rm -rf "$local"
mkdir -p "$local/runs"
if [[ -e $shared/runs/$name/run.json ]]; then
    cp -a "$shared/runs/$name" "$local/runs/"
    # After a lost node the copy is older than the checkpoints, and a number may belong to another
    # trial now: what was under way begins anew.
    [[ -e $shared/runs/$name.complete ]] || rm -rf "$shared/checkpoints/$name/trials"
    if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]]; then
        # Back from the queue: what was asked is in the run, all but the leave to run its program.
        # A new submission may ask for more.
        trust=
        for word; do
            case $word in --space | --space=* | --trust-space) trust=--trust-space ;; esac
        done
        set -- ${trust:+"$trust"}
    fi
    set -- "$@" --resume
else
    # Of a node that was lost before the first copy; a new run refuses them.
    rm -rf "$shared/checkpoints/$name"
fi
rm -f "$shared/runs/$name.complete"

# --- the end, whatever brings it ------------------------------------------------------------------

cleanup() {
    trap '' USR1 TERM INT
    [[ -z $saver_pid ]] || kill -- -"$saver_pid" 2>/dev/null || true
    # `ray stop` would also end the user's other clusters on these nodes.
    for pid in ${ray_pids[@]+"${ray_pids[@]}"}; do  # else unbound before bash 4.4
        kill "$pid" 2>/dev/null || true
    done
    wait
    if save; then
        touch "$shared/runs/$name.complete"
        srun --overlap --nodes="$nodes" --ntasks="$nodes" rm -rf "$local" "$temporary" || true
    else
        echo "slurm.sh: could not copy the run to $shared; it is in $local on $first" >&2
    fi
}
trap 'cleanup; rm -f "$claim"' EXIT

# shellcheck disable=SC2329  # called by the traps
end() {
    ended_by=$1
    [[ -z $amatune_pid ]] || kill -INT "$amatune_pid" 2>/dev/null || true
}
trap 'end limit' USR1   # some minutes before the time limit
trap 'end cancel' TERM  # scancel, or a job that matters more

run_amatune() {
    [[ -z $ended_by ]] || return 130
    amatune "$@" &
    amatune_pid=$!
    # A signal to this script ends `wait` before the process has ended.
    while kill -0 "$amatune_pid" 2>/dev/null; do
        wait "$amatune_pid" || true
    done
    local code=0
    wait "$amatune_pid" || code=$?
    amatune_pid=
    return "$code"
}

# --- the Ray cluster ------------------------------------------------------------------------------

options=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block
    --temp-dir="$temporary" --disable-usage-stats --dashboard-agent-listen-port="$((port + 2))")

srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" \
    ray start --head --node-ip-address="$head_ip" --port="$port" \
    --ray-client-server-port="$((port + 1))" --include-dashboard=false "${options[@]}" &
ray_pids+=($!)
for attempt in {1..60}; do
    ray health-check --address "$address" >/dev/null 2>&1 && break
    if ! kill -0 "${ray_pids[0]}" 2>/dev/null; then
        echo "slurm.sh: the Ray head has ended" >&2
        exit 1
    fi
    if [[ $attempt -eq 60 ]]; then
        echo "slurm.sh: no Ray head answers at $address" >&2
        exit 1
    fi
    sleep 2
done

if [[ $nodes -gt 1 ]]; then
    srun --overlap --nodes="$((nodes - 1))" --ntasks="$((nodes - 1))" --exclude="$first" \
        ray start --address="$address" "${options[@]}" &
    ray_pids+=($!)
fi

# Found by `--address auto`, so that the run does not remember this job's address.
export RAY_ADDRESS=$address
# A search counts the places for its trials when it begins: all nodes have to be there.
python -c 'import sys, time, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("slurm.sh: not all nodes have joined the Ray cluster after 300 s")
    time.sleep(1)' "$nodes"

# --- the search -----------------------------------------------------------------------------------

while sleep 600; do
    save || echo "slurm.sh: could not copy the run to $shared" >&2
done &
saver_pid=$!
disown  # bash need not report its end

code=0
run_amatune search "$@" --name "$name" --runs-dir "$local/runs" \
    --address auto --storage-path "$shared/checkpoints" || code=$?
if [[ $code -eq 0 ]]; then
    save
    run_amatune best "$name" --runs-dir "$local/runs" --export-dir "$shared/exports/$name" ||
        code=$?
fi

if [[ $code -eq 130 && $ended_by != cancel ]]; then
    trap - EXIT  # and the run stays this job's
    cleanup
    scontrol requeue "$SLURM_JOB_ID"  # ends this script
fi
[[ $ended_by != cancel ]] ||
    echo "slurm.sh: the run is in $shared/runs/$name; the same sbatch command continues it," \
        "without --enqueue and --warm-start" >&2
exit "$code"
