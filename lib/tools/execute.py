"""Run one notebook by papermill, strictly and byte-stably: `python -m lib execute NOTEBOOK [SECTION ...]`.

Strictly: every parameter that the notebook declares must come from `params.yaml` (a top key or a key of a named
section), else nothing runs. Byte-stably: two runs with equal results write equal bytes, since times, random ids and
versions of the front end are left out; DVC then sees that nothing changed. A failed run leaves the last good copy
alone and keeps the partial notebook under `logs/`.
"""

import os
import tempfile
from pathlib import Path

from lib.common import files, machine, params

KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=40", "--HistoryManager.enabled=False"]
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
    target = folder / output / "notebook.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / source.name
        try:
            run_papermill(source, draft, values, folder)
        except Exception as error:
            raise _failure(name, chosen.profile, draft, error) from error
        stabilise(draft, target)
    return target


def notebook_parameters(
    source: Path, sections: list[str], chosen: params.Params, output: str
) -> dict:
    """The values to inject: exactly the parameters that the notebook declares, no more and no fewer."""
    from papermill import inspect_notebook

    values = chosen.model_dump(mode="json")
    known = {key: value for key, value in values.items() if key not in params.SECTIONS} | {
        "output": output
    }
    for section in sections:
        if section not in params.SECTIONS:
            raise params.UserError(
                f"{section}: no such section in params.yaml; there are {', '.join(params.SECTIONS)}"
            )
        if twice := known.keys() & values[section].keys():
            raise params.UserError(
                f"{source.name}: {', '.join(sorted(twice))} stands in more than one section"
            )
        known |= values[section]
    try:
        declared = list(inspect_notebook(str(source)))
    except Exception as error:  # whatever papermill says of a broken file
        raise params.UserError(
            f"{source.name}: not a notebook ({' '.join(str(error).split())[:150]})"
        ) from None
    if not declared:
        raise params.UserError(f"{source.name}: no cell tagged `parameters`")
    if missing := [key for key in declared if key not in known]:
        raise params.UserError(
            f"{source.name}: parameter {', '.join(missing)} has no value in params.yaml "
            f"(sections searched: {', '.join(sections) or 'none'})"
        )
    return {key: known[key] for key in declared}


def stabilise(draft: Path, target: Path) -> None:
    """Write the executed notebook without what changes from run to run."""
    import nbformat

    notebook = nbformat.read(draft, as_version=4)
    for key in VOLATILE_NOTEBOOK_KEYS:
        notebook.metadata.pop(key, None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }  # as it ran
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
    """Environment of the kernel's process: fixed threads and hashing; the font list is built before, not in a cell."""
    import matplotlib.font_manager

    _ = matplotlib.font_manager.fontManager
    os.environ |= {"PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ |= machine.blas_environment()
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(chosen.threads)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(params.root()), os.environ.get("PYTHONPATH")])
    )


def run_papermill(source: Path, draft: Path, values: dict, folder: Path) -> None:
    """Execute `source` into `draft`, with `folder` as the kernel's working folder."""
    import papermill

    quiet = {"progress_bar": False, "record_timing": False, "coalesce_streams": True}
    kernel = {"kernel_name": "python3", "cwd": str(folder), "extra_arguments": KERNEL_ARGUMENTS}
    papermill.execute_notebook(str(source), str(draft), parameters=values, **kernel, **quiet)


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
