"""What the tests of faults share: child processes that are killed or starved, and what must be true afterwards."""

import contextlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.common import params

ROOT = params.root()
# For a child's code, after its imports: root may write everywhere, nobody may not.
WITHOUT_PRIVILEGES = "import os\nif os.geteuid() == 0:\n    os.setgid(65534), os.setuid(65534)\n"


def child(code: str, *arguments, cwd=ROOT, start=None, **environment) -> subprocess.Popen:
    """A Python process that runs `code` with this project on its path; its output can be read line by line."""
    path = os.pathsep.join(map(str, [cwd, ROOT, ROOT / "tests"]))
    env = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environment,
    }
    pipes = {
        "preexec_fn": start,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=env, **pipes
    )


def kill_at(process: subprocess.Popen, line: str) -> None:
    """kill -9 as soon as the process prints `line`."""
    with process:
        for said in process.stdout:
            if said == line + "\n":
                break
        else:
            raise AssertionError(f"ended before {line!r}: {process.stderr.read()}")
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def finish(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code, and the lines on standard error."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said.splitlines()


def one_line(code: int, lines: list[str], *wanted: str) -> None:
    """It failed, and said why in one line without a traceback."""
    assert code != 0 and len(lines) == 1, (code, lines)
    assert not [part for part in wanted if part not in lines[0]], lines


def under(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def wait_until(true, seconds=30) -> None:
    """Look every twentieth of a second."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def small_disk(folder: Path, size: int):
    """A full disk is near in `folder`: a tmpfs of `size` bytes where mounting is allowed, else a limit on file sizes.

    Yields how, and what to give to `subprocess` as `preexec_fn`.
    """
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if (
        os.geteuid() == 0
        and not subprocess.run(["mount", *options], capture_output=True, check=False).returncode
    ):
        try:
            yield "tmpfs", None
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        yield "RLIMIT_FSIZE", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextlib.contextmanager
def public_folder():
    """A folder that another user can reach; pytest's own ones are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
        shutil.rmtree(folder)
