"""The cluster files start the run that exists, and start it again after it was stopped."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.cnc import get_config
from sd_jax.training.signals import EXIT_STOPPED

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "launch" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
FILES = [*SCRIPTS, CLUSTER / "jobset.yaml"]
ARGUMENTS = ["--workdir=runs/a b", '--config.prompt=it\'s "$HOME"']


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def run(script: str, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", str(CLUSTER / script), *arguments],
        env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def jobset() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "jobset.yaml").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_can_be_run(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_flag_exists(path: Path) -> None:
    text = path.read_text()
    config = get_config(re.findall(r"configs/cnc\.py:(\S+)", text)[0])
    settings = re.findall(r"--config\.(\w+)", text)
    assert "distributed" in settings
    assert [name for name in settings if name not in config] == []
    others = set(re.findall(r"--(\w+)=(?:/shared|runs)", text)) - {"config"}
    train = (ROOT / "launch" / "train.py").read_text()
    assert others == {"workdir"}
    assert re.search(r'DEFINE_string\(\s*"workdir"', train)


def slurm(folder: Path, *, status: int, state: str, requeue: int = 0) -> tuple[int, str, str]:
    """Exit status, what was printed, and what was called."""
    called = folder / "called"
    stand_in(folder, "srun", f'printf "%s\\n" "$@" >args; echo "$no_proxy" >proxy; exit {status}')
    stand_in(
        folder,
        "scontrol",
        f'echo "$@" >>called; case "$1 $2" in "show hostnames") printf "n1\\nn2\\n";; '
        f'"show job") echo "   JobState={state} Reason=None";; *) exit {requeue};; esac',
    )
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "no_proxy": "localhost"}
    code, text = run("slurm.sh", folder, *ARGUMENTS, **job)
    return code, text, called.read_text()


def test_slurm_starts_the_run_with_its_arguments(tmp_path: Path) -> None:
    assert slurm(tmp_path, status=0, state="RUNNING")[0] == 0
    words = (tmp_path / "args").read_text().splitlines()
    expected = ["python", "-m", "launch.train", "--config.distributed=True", *ARGUMENTS]
    assert words[words.index("python") :] == expected
    assert (tmp_path / "proxy").read_text() == "localhost,n1,n2\n"


@pytest.mark.parametrize(
    ("status", "state", "requeue", "expected", "requeued"),
    [
        (EXIT_STOPPED, "RUNNING", 0, 0, True),
        (EXIT_STOPPED, "RUNNING", 1, EXIT_STOPPED, True),  # the cluster does not allow it
        (EXIT_STOPPED, "CANCELLED", 0, EXIT_STOPPED, False),
        (0, "RUNNING", 0, 0, False),
        (2, "RUNNING", 0, 2, False),
        (137, "RUNNING", 0, 137, False),
    ],
)
def test_slurm_requeues_what_was_stopped_by_its_time_limit(
    tmp_path: Path, status: int, state: str, requeue: int, expected: int, requeued: bool
) -> None:
    code, text, called = slurm(tmp_path, status=status, state=state, requeue=requeue)
    assert code == expected, text
    assert ("requeue 7" in called) == requeued


def test_slurm_warns_before_the_time_limit_and_keeps_the_log() -> None:
    text = (CLUSTER / "slurm.sh").read_text()
    assert re.search(r"^#SBATCH --signal=USR1@\d+$", text, re.MULTILINE)
    assert re.search(r"^#SBATCH --requeue$", text, re.MULTILINE)
    assert re.search(r"^#SBATCH --open-mode=append$", text, re.MULTILINE)
    # What stands after the first command is no directive.
    assert text.rindex("#SBATCH") < text.index("\nset -u")


def test_a_tpu_pod_starts_on_all_hosts_with_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "cnc-fgdm-jax").mkdir()
    # The host's shell reads the command as its own login would.
    stand_in(
        tmp_path,
        "gcloud",
        'echo "$*" >>called; for word; do case "$word" in --command=*) '
        'bash -c "${word#--command=}";; esac; done; wait',
    )
    stand_in(tmp_path, "python3", 'printf "%s\\n" "$@" "$JAX_COMPILATION_CACHE_DIR"')
    log = tmp_path / "cnc-fgdm-jax" / "train.log"
    code, text = run("tpu_pod.sh", tmp_path, *ARGUMENTS, TPU="pod", ZONE="us-west4-a")
    assert code == 0, text
    for _ in range(100):
        if log.is_file() and log.read_text().endswith("/tmp/xla_cache\n"):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    expected = ["-m", "launch.train", "--config.distributed=True", *ARGUMENTS, "/tmp/xla_cache"]
    assert log.read_text().splitlines() == expected
    assert "tpu-vm ssh pod --zone=us-west4-a --worker=all" in (tmp_path / "called").read_text()


def test_a_tpu_pod_needs_a_name(tmp_path: Path) -> None:
    code, text = run("tpu_pod.sh", tmp_path, ZONE="us-west4-a")
    assert code != 0
    assert "set TPU to the name of the TPU" in text


def test_the_jobset_is_of_one_piece() -> None:
    document = jobset()
    name = document["metadata"]["name"]
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    port = container["ports"][0]["containerPort"]
    address = f"{name}-{job['name']}-0-0.{name}:{port}"
    assert environment["JAX_COORDINATOR_ADDRESS"] == address
    assert int(environment["JAX_NUM_PROCESSES"]) == spec["parallelism"] == spec["completions"]
    assert "JAX_PROCESS_ID" in environment
    assert spec["completionMode"] == "Indexed"  # or there is no index
    assert container["command"] == ["python", "-m", "launch.train"]
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in spec["template"]["spec"]["volumes"]}


def test_the_jobset_starts_a_stopped_run_again() -> None:
    spec = jobset()["spec"]
    (job,) = spec["replicatedJobs"]
    rules = job["template"]["spec"]["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"] for rule in rules if "onExitCodes" in rule]
    assert codes["values"] == [EXIT_STOPPED]
    pod = job["template"]["spec"]["template"]["spec"]
    assert codes["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it
    assert {rule["action"] for rule in rules} == {"FailJob"}
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
