"""Build the site: `python docs/site/build.py [FOLDER]`. Pages and pictures go to `FOLDER/source`, the site to `FOLDER/html`.

The notebooks are the executed copies (of the full profile where there is one, else of the sample), the verdicts come
from the ledger and the metrics, the interactive view from the shipped weights. Nothing is executed or downloaded.
"""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SITE = Path(__file__).resolve().parent
ROOT = SITE.parents[1]
sys.path.insert(0, str(ROOT))

from lib.common import claims, data, quality, tables  # noqa: E402
from lib.mixture import denoiser  # noqa: E402
from lib.tools import photo  # noqa: E402

BUILD = Path(sys.argv[1] if len(sys.argv) > 1 else SITE.parent / "_build").resolve()
SOURCE, HTML = BUILD / "source", BUILD / "html"
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)  # standard deviation of the noise, pixel values in [0, 1]
SIDE = 128  # of a photograph in pixels
PHOTOS = {  # scikit-image's, all in the public domain
    "chelsea": "a tabby cat",
    "coffee": "a cup of coffee on a saucer",
    "astronaut": "an astronaut in an orange suit",
    "rocket": "a rocket on its launch pad",
}
SMALL = ("airplane", "frog", "horse", "ship")  # CIFAR-10, the first test image of each class
EXPERTS = ("global", "local", "skipped")


def build() -> None:
    """The whole site, from nothing."""
    for folder in (SOURCE, HTML, BUILD / "doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    (SOURCE / "notebooks").mkdir(parents=True)
    (SOURCE / "view").mkdir()
    names = [copy_notebook(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    background = [
        copy_page(path)
        for part in ("docs", "models")
        for path in sorted((ROOT / part).glob("*.md"))
    ]
    (SOURCE / "index.md").write_text(landing_page(names, background), encoding="utf-8")
    folders = [
        "-c",
        str(SITE),
        "-d",
        str(BUILD / "doctrees"),
        "-D",
        f"html_static_path=static,{SOURCE / 'view'}",
    ]
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", *folders]
    subprocess.run([*command, str(SOURCE), str(HTML)], check=True)
    print(f"{HTML / 'index.html'}: {len(list(HTML.rglob('*.html')))} pages")


def copy_page(path: Path) -> str:
    """A Markdown file of the repository into the site; its name there."""
    name = f"model_{path.stem}" if path.parent.name == "models" else path.stem
    (SOURCE / f"{name}.md").write_text(unlinked(path.read_text(encoding="utf-8")), encoding="utf-8")
    return name


def unlinked(text: str) -> str:
    """Markdown whose links to files of the repository, which is not part of the site, are plain text."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)\s]+\)", r"\1", text)


# --- notebooks -------------------------------------------------------------------------------------------------------


def executed(stem: str) -> tuple[Path, str]:
    """The executed copy of a notebook and its profile: full where it exists, else sample; 06 reads both anyway."""
    for profile in ("sample",) if stem == "06_verdicts" else ("full", "sample"):
        path = ROOT / "results" / profile / stem / "notebook.ipynb"
        if path.is_file():
            return path, profile
    raise SystemExit(f"{stem}: no executed copy; `dvc repro` makes it")


def copy_notebook(source: Path) -> str:
    """One executed notebook into the site: its set-up folded, its figures described, its profile named."""
    path, profile = executed(source.stem)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    heading = ""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        heading = (
            (re.findall(r"^#+ (.+)$", text, re.MULTILINE) or [heading])[-1]
            if "outputs" not in cell
            else heading
        )
        if cell["cell_type"] == "markdown":
            cell["source"] = [unlinked(text)]
        tags = cell["metadata"].setdefault("tags", [])
        if {"bootstrap", "parameters"} & set(tags):
            tags.append("remove-cell")
        if "injected-parameters" in tags:
            tags.append("hide-input")
            cell["metadata"]["mystnb"] = {"code_prompt_show": "Show the parameters of this run"}
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell["metadata"]["mystnb"] = {"image": {"alt": description(text, heading)}}
    first = notebook["cells"][0]
    said = (
        "with the results of both profiles"
        if source.stem == "06_verdicts"
        else f"of the `{profile}` profile"
    )
    first["source"] = ["".join(first["source"]), f"\n\n*Executed copy {said}.*\n"]
    (SOURCE / "notebooks" / source.name).write_text(json.dumps(notebook), encoding="utf-8")
    return f"notebooks/{source.stem}"


def description(code: str, heading: str) -> str:
    """What a figure shows, from the titles and axes that its code writes."""
    titles = re.findall(r"""(?<!\w)(?:title=|set_title\(|suptitle\()\s*"([^"{]+)\"""", code)
    axes = re.findall(
        r"""(?<!\w)(?:xlabel=|ylabel=|set_xlabel\(|set_ylabel\()\s*"([^"{]+)\"""", code
    )
    parts = [heading, *titles] + ([f"axes: {', '.join(axes)}"] if axes else [])
    return "Figure. " + "; ".join(dict.fromkeys(part.strip() for part in parts if part.strip()))


# --- landing page ----------------------------------------------------------------------------------------------------


def landing_page(notebooks: list[str], background: list[str]) -> str:
    """Markdown of the first page."""
    verdicts = claims.judge_all(claims.read_best())
    path, _ = executed("06_verdicts")
    return "\n\n".join(
        [
            "# Attention on Trial",
            "Three attention systems were announced with big numbers and thin evidence. Each is rebuilt here from "
            "scratch, and every announced number is measured against a rule that was written before the run.",
            f"**{claims.tally_sentence(verdicts)}**",
            summary_html(verdicts),
            "## Try the denoiser",
            "The shipped mixture network removes noise from each picture. A router sends every window of 16 x 16 "
            "pixels to one of three experts: global attention, local attention, or none.",
            view_html(make_view()),
            "## Five findings",
            findings(path),
            "## Every claim",
            "Measured values with their 95 % interval and the number of cases n. How each was tested stands in "
            "[notebook 06](notebooks/06_verdicts.ipynb).",
            *(
                f"### {name}\n\n{verdict_html(claims.announced(verdicts, key), name)}"
                for key, name in claims.SYSTEMS.items()
            ),
            "## Our own targets",
            "What we set ourselves, counted apart from what was announced.",
            verdict_html(claims.own_targets(verdicts), "our own targets"),
            "## Run it yourself",
            "```sh\nmake reproduce   # every result again, compared with the committed ones\n"
            "make test        # all tests, and the committed notebooks executed again\n"
            "make site        # these pages\n```",
            toctree("Notebooks", notebooks),
            toctree("Background", background),
        ]
    )


def toctree(caption: str, names: list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"])


def raw(lines: list[str]) -> str:
    return "\n".join(["```{raw} html", *lines, "```"])


def chip(verdict: str) -> str:
    return f'<span class="verdict {verdict.split()[-1]}"><span aria-hidden="true">{claims.MARKS[verdict]}</span> {verdict}</span>'


def summary_html(verdicts: list[claims.Verdict]) -> str:
    """How many claims of each system got each verdict."""
    lines = [
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdicts by system"><table class="table">'
    ]
    shown = [verdict for verdict in claims.VERDICTS if claims.counts(verdicts)[verdict]]
    heads = "".join(f'<th scope="col">{chip(verdict)}</th>' for verdict in shown)
    lines += [f'<thead><tr><th scope="col">system</th>{heads}</tr></thead><tbody>']
    for key, name in claims.SYSTEMS.items():
        tally = claims.counts(claims.announced(verdicts, key))
        cells = "".join(f"<td>{tally[verdict]}</td>" for verdict in shown)
        lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return raw([*lines, "</tbody></table></div>"])


def verdict_html(verdicts: list[claims.Verdict], name: str) -> str:
    """A row for each verdict."""
    label = f"Claims: {name}"
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="table verdicts">'
    ]
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("announced", "measured", "verdict"))
    lines.append(f"<thead><tr>{heads}</tr></thead><tbody>")
    for v in verdicts:
        measured = (
            tables.number(v.entry)
            if v.entry
            else v.claim.rule.not_testable or "needs the full profile"
        )
        cells = f"<td>{html.escape(v.claim.announced)}</td><td>{html.escape(measured)}</td><td>{chip(v.verdict)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    return raw([*lines, "</tbody></table></div>"])


def findings(path: Path) -> str:
    """The list of findings that notebook 06 printed."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/markdown", ""))
            if text.startswith("1. **"):
                return text
    raise SystemExit("06_verdicts: no list of findings in its executed copy")


# --- the interactive view --------------------------------------------------------------------------------------------


def make_view() -> list[dict]:
    """Noisy and denoised pictures as one sprite for each image, with the experts that the router chose.

    A sprite has a row for each noise level (left noisy, right denoised) and a last row with the clean image.
    """
    torch.set_num_threads(1)
    model = denoiser.load_weights(ROOT / photo.WEIGHTS)
    entries = []
    for name, label, clean in pictures():
        rows, entry = [], {"name": name, "label": label, "side": clean.shape[1], "levels": []}
        for number, sigma in enumerate(LEVELS):
            noisy = data.add_noise(clean[None], sigma, seed=number)  # (1, 3, S, S)
            image, experts = route(model, noisy, sigma)
            decibels = [
                round(float(quality.psnr(clean[None], shown)[0]), 1) for shown in (noisy, image)
            ]
            maps = ["".join(str(int(e)) for e in block[0]) for block in experts]
            entry["levels"].append(
                {"sigma": sigma, "noisy": decibels[0], "denoised": decibels[1], "maps": maps}
            )
            rows.append(np.concatenate([noisy[0], image[0]], axis=2))  # (3, S, 2S)
        rows.append(np.concatenate([clean, np.zeros_like(clean)], axis=2))
        save_picture(np.concatenate(rows, axis=1), f"{name}.png")
        save_picture(clean, f"{name}-small.png", 56)
        entries.append(entry)
    text = json.dumps({"experts": EXPERTS, "images": entries}, separators=(",", ":"))
    (SOURCE / "view" / "view-data.js").write_text(f"window.VIEW_DATA = {text};\n", encoding="utf-8")
    return entries


def pictures():
    """(name, description, image (3, S, S) in [0, 1]) of each picture of the view."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    for name, label in PHOTOS.items():
        opened = Image.open(next(folder.glob(f"{name}.*"))).convert("RGB")
        side = min(opened.size)
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        square = opened.crop((left, top, left + side, top + side)).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        yield name, label, np.asarray(square, np.float32).transpose(2, 0, 1) / 255
    images, labels = data.load_cifar("test", "sample")
    for name in SMALL:
        first = int(np.argmax(labels == data.CLASSES.index(name)))
        yield (
            name,
            f"{'an' if name[0] in 'aeiou' else 'a'} {name}, 32 pixels",
            images[first].astype(np.float32) / 255,
        )


@torch.no_grad()
def route(model, noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, list]:
    """The denoised image (1, 3, S, S), and for each routed block the expert of each window (1, M)."""
    image, experts = model(torch.from_numpy(noisy), torch.full((1,), sigma))
    return image.numpy(), experts


def save_picture(image: np.ndarray, name: str, side: int | None = None) -> None:
    picture = Image.fromarray(
        (np.clip(image, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    )
    if side:
        picture = picture.resize(
            (side, side), Image.Resampling.NEAREST if side > picture.width else Image.Resampling.BOX
        )
    picture.save(SOURCE / "view" / name, optimize=True)


def view_html(entries: list[dict]) -> str:
    """The controls and panels of the view; static/view.js brings them to life."""
    choices = [
        f'<label><input type="radio" name="view-image" value="{i}"{" checked" if i == 0 else ""}>'
        f'<img src="_static/{e["name"]}-small.png" alt="{e["label"]}" class="dark-light" width="56" height="56">'
        "</label>"
        for i, e in enumerate(entries)
    ]
    panels = [
        f'<figure><canvas id="view-{key}" role="img" aria-label="{text}"></canvas>'
        f'<figcaption id="view-{key}-text">{text}</figcaption></figure>'
        for key, text in (
            ("noisy", "noisy"),
            ("denoised", "denoised"),
            ("map", "experts"),
            ("clean", "clean"),
        )
    ]
    last = len(LEVELS) - 1
    return raw(
        [
            '<section id="view" aria-label="Interactive view of the denoiser">',
            '<fieldset><legend>Picture</legend><div class="view-choices">',
            *choices,
            "</div></fieldset>",
            '<p class="view-level"><label for="view-level">Noise level</label>',
            f'<input type="range" id="view-level" min="0" max="{last}" step="1" value="2">',
            '<output id="view-level-text" for="view-level"></output></p>',
            *block_choice(len(entries[0]["levels"][0]["maps"])),
            '<div class="view-panels">',
            *panels,
            "</div>",
            '<ul class="view-legend" id="view-legend"></ul>',
            '<p role="status" id="view-status"></p>',
            "<noscript><p>This view needs JavaScript; the pictures themselves are in notebook 03.</p></noscript>",
            "</section>",
            '<script src="_static/view-data.js"></script><script src="_static/view.js"></script>',
        ]
    )


def block_choice(blocks: int) -> list[str]:
    """Which routed block's experts are shown, where the network has more than one."""
    if blocks == 1:
        return []
    choices = [
        f'<label><input type="radio" name="view-block" value="{i}"{" checked" if i == 0 else ""}> {i + 1}</label>'
        for i in range(blocks)
    ]
    return ['<fieldset class="view-blocks"><legend>Routed block</legend>', *choices, "</fieldset>"]


if __name__ == "__main__":
    build()
