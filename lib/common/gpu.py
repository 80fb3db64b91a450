"""Who may use the GPU: one stage at a time, and TensorFlow only when it is asked for.

PyTorch's wheels bring the libraries of CUDA 13, TensorFlow's those of CUDA 12.9, and both would own the same cuDNN folder.
So in this environment the GPU belongs to PyTorch, and TensorFlow's processes start without seeing it. Who wants
TensorFlow on a GPU gives it an environment of its own (docs/machines.md) and names its Jupyter kernel in TENSORFLOW_KERNEL.

Imports neither framework.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

TENSORFLOW_KERNEL = "TENSORFLOW_KERNEL"  # the kernel that notebooks with TensorFlow run in
SHARED = "SHARE_GPU"  # set: stages use one GPU side by side
HELD = "GPU_IS_HELD"  # set by who holds the lock, for the processes that it starts
VISIBLE = "CUDA_VISIBLE_DEVICES"


def present() -> bool:
    """Whether this process could see a GPU: the driver lists one, and it is not hidden."""
    if os.environ.get(VISIBLE) in ("", "-1"):
        return False
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def hide_from_tensorflow() -> None:
    """Hide every GPU from this process and those it starts, unless a kernel for TensorFlow is named.

    TensorFlow reads the variable when it is first imported.
    """
    if not os.environ.get(TENSORFLOW_KERNEL):
        os.environ[VISIBLE] = ""


def lock_path() -> Path:
    """The file that whoever uses the GPU holds; a process of several with a GPU each has one of its own."""
    number = os.environ.get("LOCAL_RANK", "0")
    return Path(tempfile.gettempdir()) / f"attention-on-trial-gpu-{number}.lock"


@contextlib.contextmanager
def alone(device: str) -> Iterator[None]:
    """Hold the GPU while the block runs, so that two stages never share it; on a CPU nothing happens.

    Waits, with a word, for the stage that holds it. Processes that are started inside need not wait again.

    Args:
        device: "cuda" or "cpu", what the block will use.
    """
    if device != "cuda" or os.environ.get(HELD) or os.environ.get(SHARED):
        yield
        return
    import fcntl  # not on Windows, where this runs on the CPU or with SHARE_GPU=1

    with open(lock_path(), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"waiting for the GPU, which another stage uses ({SHARED}=1 shares it)", flush=True
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ[HELD] = "1"
        try:
            yield
        finally:
            del os.environ[HELD]  # the lock itself goes when the file is closed
