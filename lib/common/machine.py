"""The machine and the code behind a result: what decides its last bits."""

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from lib.common import files, params

PACKAGES = {  # distribution -> the module that shows that a process uses it
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-image": "skimage",
    "numba": "numba",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
}
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def environment() -> dict[str, Any]:
    """Processor, Python, the versions of the numerical packages that this process has loaded, and a GPU it used."""
    versions = {name: version(name) for name, module in PACKAGES.items() if module in sys.modules}
    facts = {"processor": processor(), "python": platform.python_version(), "versions": versions}
    gpu = gpu_in_use()
    return facts | {"gpu": gpu} if gpu else facts


def gpu_in_use() -> dict[str, Any]:
    """What is known of the GPU that this process has really used; empty when everything ran on the CPU.

    Asks PyTorch and TensorFlow only where the process has loaded them: this module imports neither.
    """
    return _gpu_of_torch() or _gpu_of_tensorflow()


def _gpu_of_torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "model": torch.cuda.get_device_name(),
        "driver": gpu_driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,  # products of float32 in 19 bits
    }


def _gpu_of_tensorflow() -> dict[str, Any]:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return {}
    found = tensorflow.config.list_logical_devices("GPU")
    if not found:
        return {}
    physical = tensorflow.config.list_physical_devices("GPU")[0]
    details = tensorflow.config.experimental.get_device_details(physical)
    build = tensorflow.sysconfig.get_build_info()
    return {
        "model": details.get("device_name", "unknown"),
        "driver": gpu_driver(),
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "tf32": tensorflow.config.experimental.tensor_float_32_execution_enabled(),
    }


def gpu_driver() -> str:
    """The version of the graphics driver, as nvidia-smi says it; "unknown" without it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    lines = answer.stdout.split()
    return lines[0] if lines else "unknown"


def processor() -> str:
    """The processor's model and the vector extensions that decide which kernels a library picks."""
    facts = _first_processor()
    if not facts:
        return f"{platform.machine()} {platform.processor()}".strip()
    name = facts.get("model name", platform.machine())
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    flags = set(facts.get("flags", "").split())
    vector = [flag for flag in VECTOR_FLAGS if flag in flags]
    return " ".join([name, "/".join(numbers), *vector])


def blas_environment() -> dict[str, str]:
    """Variables that fix what OpenBLAS computes, down to the last bit, on every x86 processor with AVX2.

    Left alone it picks its kernels by processor and its blocks by cache, and its idle threads spin (measured on a
    busy machine: 48 s of CPU instead of 2).
    """
    fixed = {"OPENBLAS_NUM_THREADS": "1"}
    if "avx2" in processor():
        fixed |= {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512"}
    return fixed


def code_hash(study: str) -> str:
    """One hash over the notebook `study` and every module of lib that this process has loaded."""
    folder = params.root()
    used = {folder / "notebooks" / f"{study}.ipynb"}
    for name, module in sys.modules.items():
        if name.split(".")[0] == "lib" and module.__file__:
            used.add(Path(module.__file__))
    digest = hashlib.sha256()
    for path in sorted(path for path in used if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {files.sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def _first_processor() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor, by key; nothing on systems without that file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    facts = {}
    for line in text.split("\n\n")[0].splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts[key.strip()] = value.strip()
    return facts


def version(name: str) -> str:
    """The installed version of a package; "unknown" where there is none."""
    for distribution in (name, f"{name}-cpu"):  # TensorFlow for the CPU alone goes by another name
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
