"""One style for all figures, a byte-stable way to save them, and the figures that recur.

Sizes are in inches, and an inch is 90 dots of a page; every picture holds two dots for each of them, so that
lines and letters stay sharp on a modern screen. A notebook's page is about 9 inches wide.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.common import files

# Okabe and Ito's colours: told apart by readers with any colour vision.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
YELLOW = "#F0E442"
GREY = "#666666"

PAGE_DPI = 90  # dots of a page in an inch
FILE_DPI = 2 * PAGE_DPI
# Equal figures are to have equal bytes, so the picture does not name the version that drew it.
NO_VERSION = {"Software": None}


def style() -> None:
    """Set matplotlib's defaults for every figure of the project, in files and in notebooks."""
    plt.rcParams.update(
        {
            "figure.dpi": PAGE_DPI,
            "savefig.dpi": FILE_DPI,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY]),
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "svg.hashsalt": "attention-on-trial",
        }
    )
    _sharpen_notebook()


def save(figure: Figure, folder: Path | str, name: str) -> Path:
    """Write `<folder>/<name>.png`: equal figures have equal bytes, and a broken write leaves no file."""
    path = Path(folder) / f"{name}.png"
    with files.atomic(path) as partial:
        figure.savefig(partial, metadata=NO_VERSION, pil_kwargs={"optimize": True})
    return path


def show_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw one image without ticks.

    Args:
        image: (3, H, W) in colour or (H, W) in grey, range [0, 1]; values outside are clipped.
        title: stands over it.
    """
    picture = np.moveaxis(image, 0, -1) if image.ndim == 3 else image  # (H, W, 3) or (H, W)
    axes.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10, loc="center")
    axes.grid(False)
    axes.spines[:].set_visible(False)


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    size: float = 1.15,
    title: str = "",
) -> Figure:
    """A table of images: a row for each case, a column for each treatment.

    Args:
        rows: R rows of C images, (3, H, W) or (H, W) each, range [0, 1].
        columns: C titles, over the first row.
        labels: R labels, left of the rows.
        captions: R rows of C short texts under the images, for example their PSNR.
        size: of an image, in inches.
        title: of the whole figure.
    """
    row_height = size * 1.12  # room for a caption
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(size * len(columns), row_height * len(rows)),
        squeeze=False,
    )
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            show_image(axes[r, c], image, columns[c] if r == 0 else "")
            if captions:
                axes[r, c].set_xlabel(captions[r][c], fontsize=9, labelpad=2)
        if labels:
            axes[r, 0].set_ylabel(labels[r], fontsize=10)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _sharpen_notebook() -> None:
    """Let a notebook show pictures of `FILE_DPI` at the size of `PAGE_DPI`; nothing outside a notebook."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    from matplotlib_inline.config import InlineBackend

    backend = InlineBackend.instance(parent=shell)
    backend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": NO_VERSION}
    backend.figure_formats = {"retina"}
