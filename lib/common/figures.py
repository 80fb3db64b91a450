"""One style for all figures, a byte-stable way to save them, and the figures that recur."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.common import files

# Okabe and Ito's colours: told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
)
GREY = "#666666"


def style() -> None:
    """Set matplotlib's defaults for every figure of the project."""
    plt.rcParams.update(
        {
            "figure.dpi": 85,  # in a notebook, whose executed copy is to stay small
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY]),
            "legend.frameon": False,
            "svg.hashsalt": "attention-on-trial",
        }
    )


def save(figure: Figure, folder: Path | str, name: str) -> Path:
    """Write `<folder>/<name>.png` without a date or a version in it, so that equal figures have equal bytes."""
    path = Path(folder) / f"{name}.png"
    with files.atomic(path) as partial:
        figure.savefig(partial, metadata={"Software": None})
    return path


def show_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """One image (3, H, W) or (H, W), range [0, 1], without ticks; values outside the range are clipped."""
    picture = np.moveaxis(image, 0, -1) if image.ndim == 3 else image  # (H, W, 3) or (H, W)
    axes.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    size: float = 1.15,
) -> Figure:
    """A table of images: a row per case, a column per treatment.

    Args:
        rows: R rows of C images (3, H, W) each, range [0, 1].
        columns: C titles, over the first row.
        labels: R labels, left of the rows.
        captions: R x C short texts under the images, for example their PSNR.
        size: of an image in inches.
    """
    count, width = len(rows), len(rows[0])
    figure, axes = plt.subplots(
        count, width, figsize=(size * width, size * count * 1.12), squeeze=False
    )
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            show_image(axes[r, c], image, columns[c] if r == 0 else "")
            if captions:
                axes[r, c].set_xlabel(captions[r][c], fontsize=8, labelpad=2)
        if labels:
            axes[r, 0].set_ylabel(labels[r], fontsize=8)
    return figure
