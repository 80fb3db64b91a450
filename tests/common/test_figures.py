"""lib/common/figures.py: equal figures have equal bytes, twice the dots of a page, and a notebook shows them sharp."""

import base64
import io
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from lib.common import data, figures, params

INCHES = (4, 2)


@pytest.fixture(autouse=True)
def styled():
    with plt.rc_context():
        figures.style()
        yield
    plt.close("all")


def some_figure():
    figure, axes = plt.subplots(figsize=INCHES)
    axes.plot([0, 1, 4, 9], label="squares")
    axes.set(title="A line", xlabel="x", ylabel="y")
    axes.legend()
    return figure


def test_a_saved_figure_has_two_dots_for_each_of_a_page(tmp_path):
    path = figures.save(some_figure(), tmp_path / "new folder", "line")
    assert path == tmp_path / "new folder" / "line.png"
    with Image.open(path) as picture:
        assert picture.size == tuple(2 * figures.PAGE_DPI * inches for inches in INCHES)


def test_equal_figures_have_equal_bytes_and_name_no_version(tmp_path):
    first = figures.save(some_figure(), tmp_path, "first")
    second = figures.save(some_figure(), tmp_path, "second")
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert set(picture.info) == {"dpi"}


def test_another_process_writes_the_same_bytes(tmp_path):
    figure, axes = plt.subplots(figsize=INCHES)
    axes.plot([3, 1, 2])
    here = figures.save(figure, tmp_path, "here")
    script = (
        "import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt\n"
        "from lib.common import figures\n"
        "figures.style()\n"
        f"figure, axes = plt.subplots(figsize={INCHES})\n"
        "axes.plot([3, 1, 2])\n"
        f"figures.save(figure, {str(tmp_path)!r}, 'there')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=params.root(), check=True)
    assert here.read_bytes() == (tmp_path / "there.png").read_bytes()


def test_a_write_that_breaks_leaves_the_old_figure(tmp_path, monkeypatch):
    path = figures.save(some_figure(), tmp_path, "line")
    before = path.read_bytes()
    figure = some_figure()

    def break_in_the_middle(target, **_):
        target.write_bytes(before[:100])
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", break_in_the_middle)
    with pytest.raises(OSError, match="disk full"):
        figures.save(figure, tmp_path, "line")
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["line.png"]


def test_an_image_is_shown_as_it_is_in_colour_and_in_grey():
    images, _ = data.load_cifar("test", "sample")
    colour = images[0] / 255  # (3, 32, 32)
    _, (left, right) = plt.subplots(1, 2)
    figures.show_image(left, colour, "colour")
    figures.show_image(right, colour[0] + 1)
    np.testing.assert_array_equal(left.images[0].get_array(), np.moveaxis(colour, 0, -1))
    assert np.all(right.images[0].get_array() == 1)  # clipped
    assert left.get_title() == "colour"
    assert not left.get_xticks().size


def test_a_grid_has_a_row_for_each_case_and_a_column_for_each_treatment():
    images, labels = data.load_cifar("test", "sample")
    rows = [[image / 255, 1 - image / 255] for image in images[:3]]
    names = [data.CLASSES[label] for label in labels[:3]]
    captions = [["", f"{number} dB"] for number in range(3)]
    figure = figures.image_grid(rows, ["as it is", "negative"], names, captions, title="Negatives")
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes] == ["as it is", "negative", "", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == names
    assert [axes.get_xlabel() for axes in figure.axes[1::2]] == ["0 dB", "1 dB", "2 dB"]
    assert figure.get_suptitle() == "Negatives"


def test_a_notebook_shows_a_figure_at_the_size_of_the_page_with_twice_the_dots():
    cells = [
        "import matplotlib.pyplot as plt\nfrom lib.common import figures\nfigures.style()",
        f"figure, axes = plt.subplots(figsize={INCHES})\naxes.plot([3, 1, 2]);",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": params.root()}}
    ).execute()
    (output,) = notebook.cells[1].outputs
    content = io.BytesIO(base64.b64decode(output.data["image/png"]))
    with Image.open(content) as picture:
        shown = output.metadata["image/png"]
        assert picture.size == (2 * shown["width"], 2 * shown["height"])
        assert "Software" not in picture.info
    assert shown["width"] == pytest.approx(figures.PAGE_DPI * INCHES[0], rel=0.1)
