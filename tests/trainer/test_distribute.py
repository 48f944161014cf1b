"""The same run on one device, on two of this machine, and on two workers that talk over loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.distribute import Alone, DistributionError, distribution
from trainer.record import read_log

# Without batch normalisation a step does not depend on how the batch was dealt out.
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import keras
import tensorflow as tf

data, config_file, out, devices, *choices = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices))
from trainer.architectures import ARCHITECTURES
from trainer.cohorts import COHORTS
from trainer.config import load_config
from trainer.train import train


def plain(size, findings, *, dropout=0.0):
    inputs = keras.Input((*size, 1))
    x = keras.layers.Conv2D(6, 5, 2, "same", activation="relu")(inputs)
    x = keras.layers.Flatten(name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(len(findings), activation="sigmoid", name="scores")(x))


ARCHITECTURES["tiny"] = plain
config = load_config(config_file)
for choice in choices:
    name, _, distribute = choice.partition(":")
    settings = replace(config.training, distribute=distribute, learning_rate=0.001)
    train(replace(config, training=settings), COHORTS["kermany"](Path(data)), Path(out, name))
    keras.utils.clear_session()
"""


def command(drawn_data, config_file, out, devices, *choices):
    """Return a program that makes the runs, each given as NAME:DISTRIBUTE, one after the other."""
    return [sys.executable, "-c", PROGRAM, str(drawn_data), str(config_file), str(out), str(devices), *choices]


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def weights(run):
    with np.load(run / "average.npz") as stored:
        return [stored[name] for name in sorted(stored.files)]


@pytest.mark.requirement("SRS-TRN-011")
@pytest.mark.timeout(170)
def test_two_devices_and_two_workers_learn_what_one_learns(drawn_data, config_file, tmp_path):
    """A site with four GPUs or two machines must not get another model than the laptop did."""
    base = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    runs = {
        # One process for both: most of its time goes into loading TensorFlow. A run alone uses the first device only.
        "here": (command(drawn_data, config_file, tmp_path, 2, "one:none", "mirrored:mirrored"), base),
        **{
            f"worker-{index}": (
                command(drawn_data, config_file, tmp_path, 1, f"worker-{index}:multi-worker"),
                {
                    **base,
                    "TF_CONFIG": json.dumps(
                        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
                    ),
                },
            )
            for index in range(2)
        },
    }
    started = {
        name: subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name, (arguments, environment) in runs.items()
    }
    try:
        said = {name: process.communicate(timeout=150)[0] for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    failed = {name: said[name][-3000:] for name, process in started.items() if process.returncode != 0}
    assert not failed, failed
    alone = weights(tmp_path / "one")
    losses = [float(row["loss"]) for row in read_log(tmp_path / "one")]
    for name in ("mirrored", "worker-0"):
        assert [float(row["loss"]) for row in read_log(tmp_path / name)] == pytest.approx(losses, abs=1e-3)
        for expected, found in zip(alone, weights(tmp_path / name), strict=True):
            assert np.abs(expected - found).max() < 1e-4, name
    assert not (tmp_path / "worker-1" / "average.npz").exists(), "only the chief writes"


@pytest.mark.requirement("SRS-TRN-011")
def test_what_cannot_be_had_is_said(monkeypatch):
    assert isinstance(distribution("none"), Alone)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(DistributionError, match="expected the environment variable TF_CONFIG"):
        distribution("multi-worker")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(DistributionError, match="expected the Keras backend tensorflow, found jax"):
        distribution("mirrored")
