"""The interactive view of the first page: pictures at several noise levels, denoised, with the router's choices.

Everything is computed here, once. The browser gets one sprite for each picture (a row for each noise level: noisy at
the left, denoised at the right; a last row with the clean picture) and draws from it: static/view.js.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image

from lib.common import data, params, quality
from lib.mixture import denoiser

WEIGHTS = "models/mixture_denoiser.safetensors"
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)  # standard deviation of the noise, pixel values in [0, 1]
FIRST_LEVEL = 2  # the one that is shown first
EXPERTS = ("global", "local", "skipped")
SIDE = 128  # of a photograph, pixels
SMALL_SIDE = 56  # of a picture on its button, pixels
PHOTOS = {  # scikit-image's, all in the public domain
    "chelsea": "a tabby cat",
    "coffee": "a cup of coffee on a saucer",
    "astronaut": "an astronaut in an orange suit",
    "rocket": "a rocket on its launch pad",
}
CIFAR = {  # the first test image of each of these classes
    "airplane": "an airplane, 32 pixels",
    "frog": "a frog, 32 pixels",
    "horse": "a horse, 32 pixels",
    "ship": "a ship, 32 pixels",
}


# --- computing -------------------------------------------------------------------------------------------------------


def make(folder: Path) -> list[dict]:
    """Write sprites, small pictures and view-data.js into a folder; what view-data.js says of each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = denoiser.load_weights(params.root() / WEIGHTS)
    entries = []
    for name, label, clean in pictures():
        rows, levels = [], []
        for number, sigma in enumerate(LEVELS):
            noisy = data.add_noise(clean[None], sigma, seed=number)[0]  # (3, S, S)
            denoised, maps = denoise(model, noisy, sigma)
            rows.append(np.concatenate([noisy, denoised], axis=2))  # (3, S, 2S)
            gains = {"noisy": psnr(clean, noisy), "denoised": psnr(clean, denoised)}
            levels.append({"sigma": sigma, **gains, "maps": maps})
        rows.append(np.concatenate([clean, np.zeros_like(clean)], axis=2))
        picture(np.concatenate(rows, axis=1)).save(folder / f"{name}.png", optimize=True)
        small(clean).save(folder / f"{name}-small.png", optimize=True)
        entries.append({"name": name, "label": label, "side": clean.shape[1], "levels": levels})
    text = json.dumps({"experts": EXPERTS, "images": entries}, separators=(",", ":"))
    (folder / "view-data.js").write_text(f"window.VIEW_DATA = {text};\n", encoding="utf-8")
    return entries


def pictures() -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, description and pixels (3, S, S) in [0, 1] of each picture."""
    folder = Path(skimage.__file__).parent / "data"
    for name, label in PHOTOS.items():
        photo = Image.open(next(folder.glob(f"{name}.*"))).convert("RGB")
        pixels = np.asarray(middle_square(photo), np.float32)
        yield name, label, pixels.transpose(2, 0, 1) / 255
    images, labels = data.load_cifar("test", "sample")
    for name, label in CIFAR.items():
        first = int(np.argmax(labels == data.CLASSES.index(name)))
        yield name, label, images[first].astype(np.float32) / 255


def middle_square(photo: Image.Image) -> Image.Image:
    """The largest square in the middle, made SIDE pixels wide."""
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@torch.no_grad()
def denoise(model, noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, list[str]]:
    """The denoised picture (3, S, S), and for each routed block a string with the expert of each window."""
    image, experts = model(torch.from_numpy(noisy[None]), torch.full((1,), sigma))
    maps = []
    for block in experts:  # (1, M) each
        maps.append("".join(str(int(expert)) for expert in block[0]))
    return image[0].numpy(), maps


def psnr(clean: np.ndarray, shown: np.ndarray) -> float:
    """PSNR in dB, as many digits as the view shows."""
    return round(float(quality.psnr(clean[None], shown[None])[0]), 1)


def picture(image: np.ndarray) -> Image.Image:
    """Pixels (3, H, W) as a picture; values outside of [0, 1] are cut off."""
    values = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values.transpose(1, 2, 0))


def small(image: np.ndarray) -> Image.Image:
    """A picture as it stands on its button."""
    whole = picture(image)
    how = Image.Resampling.NEAREST if whole.width < SMALL_SIDE else Image.Resampling.BOX
    return whole.resize((SMALL_SIDE, SMALL_SIDE), how)


# --- HTML ------------------------------------------------------------------------------------------------------------


def html(entries: list[dict]) -> str:
    """The controls and panels of the view; static/view.js brings them to life."""
    blocks = len(entries[0]["levels"][0]["maps"])
    lines = ['<section id="view" aria-label="Interactive view of the denoiser">']
    lines += picture_choice(entries)
    lines += level_choice()
    if blocks > 1:
        lines += block_choice(blocks)
    lines += panels()
    lines += ['<ul class="view-legend" id="view-legend"></ul>']
    lines += ['<p role="status" id="view-status"></p>']
    lines += ["<noscript><p>This view needs JavaScript; notebook 03 has pictures.</p></noscript>"]
    lines += ["</section>"]
    lines += ['<script src="_static/view-data.js"></script><script src="_static/view.js"></script>']
    return "\n".join(lines)


def picture_choice(entries: list[dict]) -> list[str]:
    """A button with a small picture for each picture."""
    lines = ['<fieldset><legend>Picture</legend><div class="view-choices">']
    for number, entry in enumerate(entries):
        shown = f'<img src="_static/{entry["name"]}-small.png" alt="{entry["label"]}"'
        shown += f' class="dark-light" width="{SMALL_SIDE}" height="{SMALL_SIDE}">'
        lines.append(f"<label>{radio('view-image', number)}{shown}</label>")
    return [*lines, "</div></fieldset>"]


def level_choice() -> list[str]:
    """A slider over the noise levels."""
    last = len(LEVELS) - 1
    slider = f'type="range" id="view-level" min="0" max="{last}" step="1" value="{FIRST_LEVEL}"'
    return [
        '<p class="view-level"><label for="view-level">Noise level</label>',
        f"<input {slider}>",
        '<output id="view-level-text" for="view-level"></output></p>',
    ]


def block_choice(blocks: int) -> list[str]:
    """Which routed block's experts are shown."""
    lines = ['<fieldset class="view-blocks"><legend>Routed block</legend>']
    for number in range(blocks):
        lines.append(f"<label>{radio('view-block', number)} {number + 1}</label>")
    return [*lines, "</fieldset>"]


def radio(name: str, number: int) -> str:
    """One of several choices; the first is chosen."""
    checked = " checked" if number == 0 else ""
    return f'<input type="radio" name="{name}" value="{number}"{checked}>'


def panels() -> list[str]:
    """The four pictures that are drawn."""
    lines = ['<div class="view-panels">']
    for name in ("noisy", "denoised", "map", "clean"):
        canvas = f'<canvas id="view-{name}" role="img" aria-label="{name}"></canvas>'
        caption = f'<figcaption id="view-{name}-text">{name}</figcaption>'
        lines.append(f"<figure>{canvas}{caption}</figure>")
    return [*lines, "</div>"]
