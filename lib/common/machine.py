"""The machine and the code behind a result: what decides its last bits."""

import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

from lib.common import files, params

PACKAGES = ("numpy", "scipy", "scikit-image", "numba", "torch", "tensorflow", "keras")
MODULES = {"scikit-image": "skimage"}


def environment() -> dict[str, Any]:
    """Processor, Python and the versions of the numerical packages that this process has loaded."""
    versions = {name: _version(name) for name in PACKAGES if MODULES.get(name, name) in sys.modules}
    return {"processor": processor(), "python": platform.python_version(), "versions": versions}


def processor() -> str:
    """The processor's model and the vector extensions that decide which kernels a library picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    vector = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
        if flag in flags
    ]
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    return " ".join([facts.get("model name", platform.machine()), "/".join(numbers), *vector])


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
    used = {
        Path(m.__file__)
        for name, m in sys.modules.items()
        if name.split(".")[0] == "lib" and m.__file__
    }
    used.add(folder / "notebooks" / f"{study}.ipynb")
    digest = hashlib.sha256()
    for path in sorted(path for path in used if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {files.sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu"):  # TensorFlow for the CPU alone goes by another name
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
