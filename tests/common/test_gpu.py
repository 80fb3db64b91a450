"""lib/common/gpu.py and the facts of lib/common/machine.py: proved on a machine without a GPU, by stand-ins."""

import fcntl
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from lib.common import gpu, machine, params

LISTED = "echo 'GPU 0: NVIDIA Something (UUID: GPU-1)'"
DRIVER = 'case "$*" in *driver_version*) echo 580.65.06;; *) echo "GPU 0: NVIDIA Something";; esac'


@pytest.fixture
def free(tmp_path, monkeypatch):
    """No lock is held, and nothing is asked for by the environment."""
    for name in (gpu.HELD, gpu.SHARED, gpu.VISIBLE, gpu.TENSORFLOW_KERNEL, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))


def smi(folder, monkeypatch, body):
    """Put a stand-in for the driver's tool first on PATH."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


# --- is there one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, visible, wanted",
    [
        (LISTED, None, True),
        (LISTED, "0", True),
        (LISTED, "", False),
        (LISTED, "-1", False),
        ("echo 'No devices were found'", None, False),
        (f"{LISTED}; exit 9", None, False),
    ],
)
def test_a_gpu_is_there_when_the_driver_lists_it_and_it_is_not_hidden(
    tmp_path, monkeypatch, free, body, visible, wanted
):
    smi(tmp_path, monkeypatch, body)
    if visible is not None:
        monkeypatch.setenv(gpu.VISIBLE, visible)
    assert gpu.present() is wanted


def test_without_the_drivers_tool_there_is_none(tmp_path, monkeypatch, free):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not gpu.present()
    assert machine.gpu_driver() == "unknown"


# --- TensorFlow stays on the CPU -------------------------------------------------------------------------------------


def test_tensorflow_sees_no_gpu_unless_a_kernel_for_it_is_named(monkeypatch, free):
    monkeypatch.setenv(gpu.VISIBLE, "0")
    monkeypatch.setenv(gpu.TENSORFLOW_KERNEL, "tensorflow-gpu")
    gpu.hide_from_tensorflow()
    assert os.environ[gpu.VISIBLE] == "0"
    monkeypatch.delenv(gpu.TENSORFLOW_KERNEL)
    gpu.hide_from_tensorflow()
    assert os.environ[gpu.VISIBLE] == ""


# --- one at a time ---------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from lib.common import gpu

gpu.tempfile.gettempdir = lambda: sys.argv[1]
with gpu.alone("cuda"):
    Path(sys.argv[1], "holding").touch()
    while not Path(sys.argv[1], "go").exists():
        time.sleep(0.02)
    Path(sys.argv[1], "done").touch()
"""


def locked() -> bool:
    """Whether somebody holds the lock."""
    with open(gpu.lock_path(), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_second_stage_waits_until_the_first_has_left_the_gpu(tmp_path, free, capsys):
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=params.root())
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "holding").exists():
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.02)
        assert locked()
        with gpu.alone("cpu"):  # who needs no GPU does not wait
            assert not (tmp_path / "done").exists()
        (tmp_path / "go").touch()
        with gpu.alone("cuda"):
            assert (tmp_path / "done").exists() and locked()
    finally:
        first.kill()
        first.wait()
    assert not locked()


def test_waiting_is_said(tmp_path, free, capsys, monkeypatch):
    asked = []

    def flock(file, how):
        asked.append(how)
        if how & fcntl.LOCK_NB:
            raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    with gpu.alone("cuda"):
        pass
    assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    assert "waiting for the GPU" in capsys.readouterr().out


def test_processes_started_inside_do_not_wait_for_their_parent(free):
    with gpu.alone("cuda"):
        assert os.environ[gpu.HELD] == "1"
        with gpu.alone("cuda"):  # would wait for ever
            assert locked()
    assert gpu.HELD not in os.environ


def test_sharing_must_be_asked_for_and_each_process_of_several_has_its_own(monkeypatch, free):
    monkeypatch.setenv(gpu.SHARED, "1")
    with gpu.alone("cuda"):
        assert not locked()
    monkeypatch.setenv("LOCAL_RANK", "0")
    first = gpu.lock_path()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpu.lock_path() != first


def test_an_error_inside_frees_the_gpu(free):
    with pytest.raises(ZeroDivisionError), gpu.alone("cuda"):
        1 / 0  # noqa: B018
    assert not locked() and gpu.HELD not in os.environ


# --- what the record says --------------------------------------------------------------------------------------------


def torch_on(initialised: bool) -> SimpleNamespace:
    """A stand-in for PyTorch with a GPU."""
    cuda = SimpleNamespace(
        is_initialized=lambda: initialised, get_device_name=lambda: "NVIDIA Something"
    )
    backends = SimpleNamespace(
        cudnn=SimpleNamespace(version=lambda: 91300),
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)),
    )
    version = SimpleNamespace(cuda="13.0")
    return SimpleNamespace(cuda=cuda, backends=backends, version=version)


def test_the_record_names_the_gpu_that_pytorch_used(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, DRIVER)
    monkeypatch.setitem(sys.modules, "torch", torch_on(initialised=True))
    assert machine.environment()["gpu"] == {
        "model": "NVIDIA Something",
        "driver": "580.65.06",
        "cuda": "13.0",
        "cudnn": 91300,
        "tf32": False,
    }


def test_a_gpu_that_nothing_used_is_not_recorded(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_on(initialised=False))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow_with(logical=[]))
    assert "gpu" not in machine.environment()


def tensorflow_with(logical: list) -> SimpleNamespace:
    """A stand-in for TensorFlow; `logical` are the devices that it computes on."""
    experimental = SimpleNamespace(
        get_device_details=lambda device: {"device_name": f"model of {device}"},
        tensor_float_32_execution_enabled=lambda: True,
    )
    config = SimpleNamespace(
        list_logical_devices=lambda kind: logical,
        list_physical_devices=lambda kind: ["first"],
        experimental=experimental,
    )
    build = {"cuda_version": "12.9", "cudnn_version": "9"}
    sysconfig = SimpleNamespace(get_build_info=lambda: build)
    return SimpleNamespace(config=config, sysconfig=sysconfig)


def test_the_record_names_the_gpu_that_tensorflow_used(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, DRIVER)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow_with(logical=["GPU:0"]))
    found = machine.gpu_in_use()
    assert (found["model"], found["cuda"], found["tf32"]) == ("model of first", "12.9", True)
