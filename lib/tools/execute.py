"""Run one notebook by papermill, strictly and byte-stably: `python -m lib execute NOTEBOOK [SECTION ...]`.

Strictly: every parameter that the notebook declares must come from `params.yaml` (a top key or a key of a named
section), else nothing runs. Byte-stably: two runs with equal results write equal bytes, since times, random ids and
versions of the front end are left out; DVC then sees that nothing changed. A failed run leaves the last good copy
alone and keeps the partial notebook under `logs/`.
"""

import os
import tempfile
from pathlib import Path

from lib.common import files, gpu, machine, params

KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=40", "--HistoryManager.enabled=False"]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
VOLATILE_CELL_KEYS = ("papermill", "execution")
VOLATILE_NOTEBOOK_KEYS = ("papermill", "widgets")


def execute(
    name: str, sections: list[str], profile: str | None = None, output: str | None = None
) -> Path:
    """Execute `notebooks/<name>.ipynb` into `<output>/notebook.ipynb`.

    Args:
        name: the notebook's name without suffix.
        sections: sections of `params.yaml` whose keys the notebook may declare as parameters.
        profile: "sample" or "full"; without it the one that `params.yaml` names.
        output: folder relative to the project's root; `results/<profile>/<name>` without it.

    Raises:
        params.UserError: no such notebook or section, a parameter without a value, or a cell that failed.
    """
    chosen = params.load(profile)
    folder = params.root()
    source = folder / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in source.parent.glob("*.ipynb")))
        raise params.UserError(f"notebooks/{name}.ipynb: not found; there are {known}")
    output = output or f"results/{chosen.profile}/{name}"
    values = notebook_parameters(source, sections, chosen, output)
    prepare_kernel(chosen)
    if uses_tensorflow(source):
        gpu.hide_from_tensorflow()
    target = folder / output / "notebook.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / source.name
        try:
            with gpu.alone(device_of(values)):
                run_papermill(source, draft, values, folder)
        except Exception as error:
            raise _failure(name, chosen.profile, draft, error) from error
        stabilise(draft, target)
    return target


def notebook_parameters(
    source: Path, sections: list[str], chosen: params.Params, output: str
) -> dict:
    """The values to inject: exactly the parameters that the notebook declares, no more and no fewer.

    Raises:
        UserError: no such section, a key that stands in two of them, or a parameter without a value.
    """
    known = known_values(source, sections, chosen) | {"output": output}
    declared = declared_parameters(source)
    missing = [name for name in declared if name not in known]
    if missing:
        raise params.UserError(
            f"{source.name}: parameter {', '.join(missing)} has no value in params.yaml "
            f"(sections searched: {', '.join(sections) or 'none'})"
        )
    return {name: known[name] for name in declared}


def known_values(source: Path, sections: list[str], chosen: params.Params) -> dict:
    """The top keys of params.yaml and those of the sections."""
    values = chosen.model_dump(mode="json")
    known = {key: value for key, value in values.items() if key not in params.SECTIONS}
    for section in sections:
        if section not in params.SECTIONS:
            there_are = ", ".join(params.SECTIONS)
            raise params.UserError(
                f"{section}: no such section in params.yaml; there are {there_are}"
            )
        twice = sorted(known.keys() & values[section].keys())
        if twice:
            raise params.UserError(
                f"{source.name}: {', '.join(twice)} stands in more than one section"
            )
        known |= values[section]
    return known


def declared_parameters(source: Path) -> list[str]:
    """The names in the notebook's cell tagged `parameters`. UserError: no such cell, or no notebook."""
    from papermill import inspect_notebook

    try:
        declared = list(inspect_notebook(str(source)))
    except Exception as error:  # whatever papermill says of a broken file
        reason = " ".join(str(error).split())[:150]
        raise params.UserError(f"{source.name}: not a notebook ({reason})") from None
    if not declared:
        raise params.UserError(f"{source.name}: no cell tagged `parameters`")
    return declared


def device_of(values: dict) -> str:
    """What a notebook with these parameters will compute on: "cuda" or "cpu"."""
    wanted = values.get("device", "cpu")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and gpu.present()) else "cpu"


def uses_tensorflow(source: Path) -> bool:
    """Whether the notebook imports TensorFlow."""
    return "import tensorflow" in source.read_text(encoding="utf-8")


def kernel_name(source: Path) -> str:
    """The Jupyter kernel that runs a notebook: that of the project, or the one named for TensorFlow."""
    named = os.environ.get(gpu.TENSORFLOW_KERNEL)
    return named if named and uses_tensorflow(source) else KERNEL["name"]


def stabilise(draft: Path, target: Path) -> None:
    """Write the executed notebook without what changes from run to run."""
    import nbformat

    notebook = nbformat.read(draft, as_version=4)
    for key in VOLATILE_NOTEBOOK_KEYS:
        notebook.metadata.pop(key, None)
    notebook.metadata.kernelspec = KERNEL  # as it ran
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        for key in VOLATILE_CELL_KEYS:
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}  # folded, like the parameters
    with files.atomic(target) as partial:
        nbformat.write(notebook, partial)


def prepare_kernel(chosen: params.Params) -> None:
    """Set what the kernel's process inherits: fixed threads and hashing, and where `lib` is found."""
    import matplotlib.font_manager

    _ = matplotlib.font_manager.fontManager  # builds the list of fonts now, so that no cell says so
    os.environ |= {"PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ |= machine.blas_environment()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    os.environ["NUMBA_NUM_THREADS"] = str(chosen.threads)
    paths = [str(params.root())]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def run_papermill(source: Path, draft: Path, values: dict, folder: Path) -> None:
    """Execute `source` into `draft`, with `folder` as the kernel's working folder."""
    import papermill

    papermill.execute_notebook(
        str(source),
        str(draft),
        parameters=values,
        kernel_name=kernel_name(source),
        cwd=str(folder),
        extra_arguments=KERNEL_ARGUMENTS,
        progress_bar=False,
        record_timing=False,
        coalesce_streams=True,
    )


def _failure(name: str, profile: str, draft: Path, error: Exception) -> params.UserError:
    """Keep what was executed so far, and say in one line which cell failed and why."""
    kept = params.root() / "logs" / f"{profile}-{name}.ipynb"
    where = ""
    if draft.is_file():
        kept.parent.mkdir(exist_ok=True)
        with files.atomic(kept) as partial:
            partial.write_bytes(draft.read_bytes())
        where = f"; what ran until then is in {kept.relative_to(params.root())}"
    cell = f"cell {error.exec_count}: " if hasattr(error, "exec_count") else ""
    kind = getattr(error, "ename", type(error).__name__)
    text = " ".join(str(getattr(error, "evalue", error)).split())
    return params.UserError(f"notebooks/{name}.ipynb failed: {cell}{kind}: {text}{where}")
