"""Several processes train as one would: the same losses, the same weights, one end for all."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from asd_core.artifacts import Workspace, list_runs, read_arrays
from asd_core.data.manifest import scan
from tests.conftest import ENVIRONMENT, REPOSITORY, SYSTEMS
from tests.integration import joint_training


def start(processes: int, *command: object) -> subprocess.Popen:
    """`accelerate launch`; --multi_gpu stands for several processes on one computer, on CPUs too."""
    options = f"--multi_gpu --num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options.split()]
    return subprocess.Popen(
        [*launch, "--main_process_port", "0", *map(str, command)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """Results of three processes, and how the last training ended, which fails in one of them."""
    folder = tmp_path_factory.mktemp("joint")
    process = start(3, joint_training.__file__, folder)
    said, _ = process.communicate(timeout=120)
    assert (folder / "rank2.json").is_file(), said
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(3)], process.returncode, said


@pytest.mark.parametrize("case", joint_training.CASES)
def test_losses_and_weights_are_those_of_one_process(joint, case, tmp_path):
    """Batch norms, a last batch of odd size, more processes than rows, parameters that nobody uses, early
    stopping, weighted draws, and a stop that is asked for in one process only."""
    alone = joint_training.train(case, tmp_path)
    for results in joint[0]:
        ours = results[case]
        assert ours["cancelled"] == (case == "resumed")
        assert ours["best_epoch"] == alone["best_epoch"]
        np.testing.assert_allclose(ours["losses"], alone["losses"], atol=1e-5)
        np.testing.assert_allclose(ours["held_out"], alone["held_out"], atol=1e-5)
        for name, values in alone["weights"].items():
            np.testing.assert_allclose(ours["weights"][name], values, atol=1e-4, err_msg=name)


def test_an_error_in_one_process_ends_all(joint):
    _, code, said = joint
    assert code != 0
    assert "error: process 1: the disk is gone" in said
    assert "process 0 stopped because another one ended, which tells why." in said


def test_street_stopped_and_resumed(tiny_data, tmp_path):
    """The command line in two processes: Ctrl-C ends both with a checkpoint, the same command finishes the work."""
    machine = scan(tiny_data).machines[0]
    command = ["-m", "asd_core", "run", SYSTEMS / "tiny-multiresnet.yaml", "--data", tiny_data, "--profile", "full"]
    command += ["--machines", machine, "--device", "cpu", "--workspace", tmp_path, "--checkpoint-seconds", "0"]
    process = start(2, *command)
    while not list(tmp_path.glob("tasks/train/*/.checkpoint.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "Cancelled. What was finished is kept; the same command continues." in said
    (unfinished,) = tmp_path.glob("tasks/train/*/.checkpoint.safetensors")

    process = start(2, *command)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    (run,) = list_runs(Workspace(tmp_path))
    assert run.record["machines"] == [machine]
    assert np.isfinite(read_arrays(Path(unfinished).parent / "losses.npz")["losses"]).all()
    assert not unfinished.exists()
