"""Run notebooks as Colab would: `python tests/colab.py [NOTEBOOK ...]`, by default 01 and 06. Not part of the tests.

A fresh virtual environment gets the versions that Colab publishes (of what the notebook needs) and papermill; a
notebook is copied alone into an empty folder, finds no project above it, clones the last commit of this one and is
executed. It must end without an error, and must leave Colab's versions alone. Takes a minute and some hundred MB of
downloads; for 02 and 03 several GB, since the only torch of that version for Python 3.12 is the CUDA build.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a new Colab notebook brings, of 2026; patch levels are not published.
COLAB = {
    "numpy": "2.1.3",
    "scipy": "1.16.*",
    "matplotlib": "3.10.*",
    "scikit-image": "0.25.*",
    "numba": "0.61.*",
    "pydantic": "2.*",
    "PyYAML": "6.*",
    "pillow": "11.*",
    "safetensors": "0.*",
    "tqdm": "4.*",
    "requests": "2.*",
    "python-dateutil": "2.9.*",
    "ipykernel": "6.*",
}
HEAVY = {
    "02": {"torch": "2.11.*"},
    "03": {"torch": "2.11.*", "torchvision": "*"},
    "04": {"tensorflow-cpu": "2.20.*", "keras": "3.13.*"},
    "05": {"tensorflow-cpu": "2.20.*", "keras": "3.13.*"},
}


def make_environment(folder: Path, python: str, names: list[str], other: list[str]) -> Path:
    """A virtual environment with Colab's versions; its Python."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--seed", "--python", python, str(folder)], check=True)
    wanted = COLAB | {
        name: version for key in names for name, version in HEAVY.get(key[:2], {}).items()
    }
    wanted |= dict(pin.split("==") for pin in other)
    pins = [name if version == "*" else f"{name}=={version}" for name, version in wanted.items()]
    executable = folder / "bin" / "python"
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", str(executable), *pins, "papermill"],
        check=True,
    )
    return executable


def versions(python: Path) -> dict[str, str]:
    """What is installed."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {entry["name"]: entry["version"] for entry in json.loads(listed)}


def run(python: Path, name: str, folder: Path, url: str) -> None:
    """Execute one notebook, alone in `folder`."""
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)
    keep = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    path = os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    environment = {**keep, "PATH": path, "REPOSITORY": url}
    command = [
        str(python),
        "-m",
        "papermill",
        f"{name}.ipynb",
        "executed.ipynb",
        "-k",
        "python3",
        "--no-progress-bar",
    ]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    executed = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "True" in "".join("".join(output.get("text", "")) for output in outputs), (
        "no checked claims in the output"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run notebooks as Colab would.")
    parser.add_argument("notebooks", nargs="*", default=["01_data_verification", "06_verdicts"])
    parser.add_argument(
        "--python", default="3.12", help="version or path, as Colab's (default 3.12)"
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        help="NAME==VERSION in place of Colab's, if that is not had",
    )
    parser.add_argument(
        "--url",
        default=ROOT.as_uri(),
        help="what to clone (default: this repository's last commit)",
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        python = make_environment(
            Path(scratch) / "colab", chosen.python, chosen.notebooks, chosen.pin
        )
        before = versions(python)
        for name in chosen.notebooks:
            folder = Path(scratch) / name
            folder.mkdir()
            run(python, name, folder, chosen.url)
            print(f"{name}: executed")
        after = versions(python)
        changed = [
            f"{key} {before[key]} -> {after.get(key)}"
            for key in before
            if after.get(key) != before[key]
        ]
        print("installed beside Colab's:", ", ".join(sorted(after.keys() - before.keys())))
        assert not changed, f"Colab's versions were changed: {', '.join(changed)}"


if __name__ == "__main__":
    main()
