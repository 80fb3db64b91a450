"""lib/tools/curves.py: the series that DVC draws are those that the trainings wrote."""

import csv
import json

import numpy as np
import pytest
import yaml

from lib.common import params, weights
from lib.tools import curves

ROOT = params.root()


@pytest.fixture
def project(tmp_path):
    """Two trainings of known curves and a record of longer ones."""
    run = tmp_path / "runs" / "sample" / "mixture" / "ours-0"
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps({"val_psnr": [[10, 20.123456], [20, 21.5]]}))
    losses = np.repeat(np.arange(100.0), 3) * np.log(2)  # three steps each of 0, 1, 2 ... bits
    place = tmp_path / "runs" / "sample" / "language" / "lstm-0" / "prices.safetensors"
    weights.save(place, {"losses": losses})
    values = {}
    for network in ("ours", "unet"):
        for times in (3, 6):
            values[f"growth_{network}_{times}x_cpu_s"] = {"value": 100 * times}
            values[f"growth_{network}_{times}x_psnr_db"] = {"value": 25 + times / 10}
    (tmp_path / "benchmarks").mkdir()
    record = {"metrics": values}
    (tmp_path / "benchmarks" / "mixture_growth.json").write_text(json.dumps(record))
    return tmp_path


def read(path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file))


def test_each_file_holds_its_series(project):
    folder = curves.write_curves(project, "sample")
    assert folder == project / "results" / "sample" / "curves"
    assert read(folder / "mixture.csv") == [
        ["run", "step", "psnr_db"],
        ["ours-0", "10", "20.1235"],
        ["ours-0", "20", "21.5"],
    ]
    language = read(folder / "language.csv")
    assert language[0] == ["run", "share", "bpc"] and len(language) == 101
    assert language[1] == ["lstm-0", "0.01", "0.0"] and language[100] == ["lstm-0", "1.0", "99.0"]
    assert read(folder / "growth.csv")[1:3] == [["ours", "300", "25.3"], ["ours", "600", "25.6"]]


def test_a_second_run_writes_equal_bytes(project):
    folder = curves.write_curves(project, "sample")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    curves.write_curves(project, "sample")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_plots_of_dvc_name_columns_that_are_there():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert len(plots) == 3
    for plot in plots:
        (settings,) = plot.values()
        ((place, column),) = settings["y"].items()
        head = read(ROOT / place.replace("${profile}", "sample"))[0]
        assert {"run", settings["x"], column} <= set(head)
        assert (ROOT / ".dvc" / "plots" / f"{settings['template']}.json").is_file()
