"""The site: built anew, its pages read as files, then opened in a real headless Chromium.

Needs what `make site` installs, and for the second half a Chromium or Chrome; without them these tests are skipped.
"""

import functools
import html.parser
import http.server
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser, find_chromium

from lib.common import claims, params

ROOT = params.root()
LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
TAB, RIGHT, END = ("Tab", 9), ("ArrowRight", 39), ("End", 35)
AXE = """axe.run(document, {runOnly: ["wcag2a", "wcag2aa"]}).then(found => found.violations.map(
    v => `${v.id} (${v.impact}): ` + v.nodes.slice(0, 3).map(n => n.target.join(" ")).join(" | ")))"""


class Reader(html.parser.HTMLParser):
    """What a page links to, loads and names."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.ids, self.images, self.headings = [], [], set(), [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.headings += tag == "h1"
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADED.get(tag)) and given.get("rel") not in (
            "index",
            "search",
            "next",
            "prev",
            "canonical",
        ):
            self.loads.append(given[LOADED[tag]])
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site built from the committed results."""
    for name in ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: `make site` installs what the site needs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "site" / "build.py"), str(folder)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    found = [
        path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts
    ]  # templates of the theme
    return {path: Reader(path) for path in found}


@pytest.fixture(scope="module")
def address(site):
    """The site served on this machine."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    found = find_chromium()
    if found is None:
        pytest.skip(
            "no Chromium or Chrome on PATH: on Debian and Ubuntu `apt-get install chromium` brings one"
        )
    with Browser(found) as opened:
        yield opened


@pytest.fixture
def landing(browser, address):
    page = browser.page()
    page.open(address + "index.html")
    page.wait("document.getElementById('view-status').textContent.includes('dB denoised')")
    return page


# read as files


def test_every_notebook_and_card_has_its_page(site, pages):
    names = {path.relative_to(site).as_posix() for path in pages}
    wanted = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    wanted |= {f"model_{path.stem}.html" for path in (ROOT / "models").glob("*.md")}
    assert wanted | {"index.html", "log.html", "search.html", "genindex.html"} <= names


def test_nothing_is_loaded_from_a_network(pages):
    foreign = {
        (path.name, url)
        for path, page in pages.items()
        for url in page.loads
        if urlsplit(url).netloc
    }
    assert not foreign


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data") or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.is_file() or (
                known and parts.fragment and unquote(parts.fragment) not in known.ids
            ):
                dead.append((path.relative_to(site).as_posix(), link))
    assert not [entry for entry in dead if entry[1] != "#"]


def test_pages_have_one_heading_and_pictures_a_description(pages):
    for path, page in pages.items():
        assert page.headings == 1 + ("jb-print-docs-body" in page.ids) or path.name in (
            "genindex.html",
            "search.html",
        )
        for image in page.images:
            assert image.get("alt") is not None, (path.name, image)
            assert "_images/" not in image["alt"], (
                path.name,
                image,
            )  # Sphinx's default is the file's name


def test_the_landing_page_shows_every_claim_with_its_verdict(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    ledger = claims.load_ledger()
    assert text.count('<td><span class="verdict') == len(ledger)
    announced = [claim for claim in ledger if not claim.own]
    assert f"{len(announced)} announced claims" in text


# opened in Chromium


def test_pages_load_without_an_error_and_ask_for_nothing_elsewhere(browser, address, site, pages):
    page = browser.page()
    for path in pages:
        page.open(address + path.relative_to(site).as_posix())
        assert page.run("document.body.innerText.length") > 100
        assert not page.faults(), path.name
        assert not [url for url in page.requests() if not url.startswith((address, "data:"))], (
            path.name
        )


def test_the_landing_page_also_opens_as_a_file(browser, site):
    page = browser.page()
    page.open((site / "index.html").as_uri())
    page.wait("document.getElementById('view-status').textContent.includes('dB denoised')")
    assert not page.faults()


def pixels(page, name: str) -> list[int]:
    """A few values of a panel's canvas."""
    return page.run(
        f"Array.from(document.getElementById('view-{name}').getContext('2d').getImageData(0, 0, 256, 256).data)"
        ".filter((_, i) => i % 997 === 0)"
    )


def test_the_view_reacts_to_the_keyboard(landing):
    def status():
        return landing.run("document.getElementById('view-status').textContent")

    def changed(before):
        landing.wait(f"document.getElementById('view-status').textContent !== {before!r}")
        return status()

    assert len(set(pixels(landing, "noisy"))) > 50
    landing.run("document.querySelector('input[name=view-image]').focus()")
    first, shown = status(), pixels(landing, "denoised")
    landing.press(*RIGHT)
    second = changed(first)
    assert landing.run("document.querySelector('input[name=view-image]:checked').value") == "1"
    assert pixels(landing, "denoised") != shown
    landing.press(*TAB)
    assert landing.run("document.activeElement.id") == "view-level"
    noisy = pixels(landing, "noisy")
    landing.press(*RIGHT)
    third = changed(second)
    assert "noise 0.3" in third and pixels(landing, "noisy") != noisy
    assert landing.run(
        "document.getElementById('view-level').getAttribute('aria-valuetext')"
    ).endswith("0.3")
    landing.press(*END)
    assert "noise 0.5" in changed(third)
    assert "0.5" in landing.run("document.getElementById('view-level-text').textContent")
    assert "dB" in landing.run(
        "document.getElementById('view-denoised').getAttribute('aria-label')"
    )
    assert not [
        fault for fault in landing.faults() if "getImageData" not in fault
    ]  # that is how this test looks


def test_each_picture_of_the_view_is_less_noisy_after_the_network(landing):
    entries = landing.run("window.VIEW_DATA.images")
    assert len(entries) >= 6
    for entry in entries:
        for level in entry["levels"]:
            assert level["denoised"] > level["noisy"], (entry["name"], level["sigma"])
            assert all(set(codes) <= set("012") for codes in level["maps"])


def test_the_search_finds_a_page(browser, address):
    page = browser.page()
    page.open(address + "search.html?q=Laplacian")
    page.wait("document.querySelectorAll('#search-results ul.search li').length > 0")
    assert page.run(
        "[...document.querySelectorAll('#search-results a')].map(a => a.href).join()"
    ).count(".html")
    assert not page.faults()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["index", "notebooks/06_verdicts", "notebooks/03_moe_training", "log"]
)
def test_contrast_names_and_keyboard_pass_axe(browser, address, name, theme):
    package = importlib.util.find_spec("axe_core_python")
    if package is None:
        pytest.skip("axe-core-python is not installed: `make site` installs it")
    page = browser.page()
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}]
    )
    page.open(f"{address}{name}.html")
    assert page.run("document.documentElement.dataset.theme") == theme
    page.run((Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    assert not page.run(AXE)
    page.run(
        "document.querySelector('article').insertAdjacentHTML('beforeend', '<p style=color:#999>pale</p><img src=x>')"
    )
    found = " ".join(page.run(AXE))
    assert "image-alt" in found and ("color-contrast" in found or theme == "dark")


@pytest.mark.parametrize("name", ["index", "notebooks/06_verdicts"])
def test_a_narrow_screen_does_not_scroll_sideways(browser, address, name):
    page = browser.page(width=390, height=800)
    page.open(f"{address}{name}.html")
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_what_the_keyboard_reaches_can_be_seen(landing):
    """Tab through the landing page: every stop has an outline, a border, a shadow or another colour."""
    landing.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    look = """(() => { const s = getComputedStyle(document.activeElement), t = document.activeElement;
        const p = t.matches("input[type=radio]") ? getComputedStyle(t.nextElementSibling || t) : s;
        return [t.tagName, t.id || t.textContent.trim() || t.value || t.className,
                p.outlineStyle !== "none" || p.boxShadow !== "none"]; })()"""
    stops = []
    for _ in range(25):
        landing.press(*TAB)
        stops.append(landing.run(look))
    assert len({(tag, name) for tag, name, _ in stops}) > 15
    assert not [stop for stop in stops if stop[0] != "BODY" and not stop[2]]
