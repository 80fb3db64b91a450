"""The site: built anew, its pages read as files, then opened in a real headless Chromium.

Needs what `make site` installs, and for the second half a Chromium or Chrome; without them these tests are skipped.
"""

import functools
import html
import html.parser
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser, find_chromium

from lib.common import claims, params

ROOT = params.root()
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")
# Elements that load something, and the attribute that says what; links of these kinds load nothing.
LOADING = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
ONLY_NAMED = ("index", "search", "next", "prev", "canonical")
TAB, RIGHT, END = ("Tab", 9), ("ArrowRight", 39), ("End", 35)
AXE = """axe.run(document, {runOnly: ["wcag2a", "wcag2aa"]}).then(found => found.violations.map(
    v => `${v.id} (${v.impact}): ` + v.nodes.slice(0, 3).map(n => n.target.join(" ")).join(" | ")))"""


class Reader(html.parser.HTMLParser):
    """What a page links to, loads and names."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.images: list[dict] = []
        self.headings = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "h1":
            self.headings += 1
        if tag == "img":
            self.images.append(given)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        loaded = given.get(LOADING.get(tag))
        if loaded and given.get("rel") not in ONLY_NAMED:
            self.loads.append(loaded)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site built from the committed results."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: `make site` installs what the site needs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "site" / "build.py"), str(folder)]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search}
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    """Each page of the site as it was read; templates of the theme are none."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {path: Reader(path) for path in paths}


@pytest.fixture(scope="module")
def address(site):
    """The site served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium or Chrome on PATH: on Debian `apt-get install chromium`")
    with Browser(found) as opened:
        yield opened


@pytest.fixture
def landing(browser, address):
    page = browser.page()
    page.open(address + "index.html")
    wait_for_the_view(page)
    return page


def wait_for_the_view(page) -> None:
    page.wait("document.getElementById('view-status').textContent.includes('dB denoised')")


# read as files


def test_every_notebook_and_card_has_its_page(site, pages):
    names = {path.relative_to(site).as_posix() for path in pages}
    wanted = {"index.html", "search.html", "genindex.html"}
    wanted |= {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    wanted |= {f"model_{path.stem}.html" for path in (ROOT / "models").glob("*.md")}
    wanted |= {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert wanted <= names


def test_nothing_is_loaded_from_a_network(pages):
    for path, page in pages.items():
        assert not [url for url in page.loads if urlsplit(url).netloc], path.name


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for link in {*page.links, *page.loads} - {"#"}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                dead.append((path.name, link))
            elif target in pages and parts.fragment:
                if unquote(parts.fragment) not in pages[target].names:
                    dead.append((path.name, link))
    assert not dead


def test_a_page_has_one_heading(pages):
    for path, page in pages.items():
        if path.name in ("genindex.html", "search.html"):
            continue
        printed = "jb-print-docs-body" in page.names  # the theme repeats it for printing
        assert page.headings == (2 if printed else 1), path.name


def test_pictures_have_a_description(pages):
    for path, page in pages.items():
        for image in page.images:
            assert image.get("alt") is not None, (path.name, image)
            assert "_images/" not in image["alt"], path.name  # Sphinx's default, the file's name


def test_the_landing_page_shows_every_claim_with_its_verdict(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    verdicts = claims.judge_all(claims.read_best())
    announced = claims.announced(verdicts)  # of an amended claim the newest
    rows = 0
    for table in text.split('<table class="table verdicts">')[1:]:
        rows += table.partition("</table>")[0].count('<td><span class="verdict')
    assert rows == len(announced) + len(claims.own_targets(verdicts))
    assert f"{len(announced)} announced claims" in text


def test_every_entry_of_the_ledger_has_a_page_that_the_landing_page_links_to(site, pages):
    ledger = {claim.id for claim in claims.load_ledger()}
    found = {path.stem for path in pages if path.parent == site / "claims"}
    assert found == ledger
    landing_page = pages[site / "index.html"]
    linked = {Path(link).stem for link in landing_page.links if link.startswith("claims/")}
    amended = {claim.amends for claim in claims.load_ledger()}
    assert ledger - amended <= linked


def test_the_page_of_a_claim_says_its_words_its_verdict_and_how_to_try_again(site):
    for verdict in claims.judge_all(claims.read_best()):
        name = verdict.claim.id
        text = html.unescape((site / "claims" / f"{name}.html").read_text(encoding="utf-8"))
        assert verdict.claim.announced in text, name
        assert verdict.claim.test in text, name
        assert f"{claims.MARKS[verdict.verdict]}</span> {verdict.verdict}</span>" in text, name
        words = re.sub(r"<[^>]+>", "", text)  # the parts of a command may be coloured apart
        assert f"python -m lib retry {name}" in words, name


def test_the_landing_page_begins_as_the_readme_does(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "What makes the ideas work" in text
    assert "<!-- v " not in text and "<!-- n " not in text
    before_the_view = text.partition('id="view"')[0]
    assert before_the_view.count('<span class="verdict') >= 5


# opened in Chromium


def test_pages_load_without_an_error_and_ask_for_nothing_elsewhere(browser, address, site, pages):
    page = browser.page()
    for path in pages:
        page.open(address + path.relative_to(site).as_posix())
        assert page.run("document.body.innerText.length") > 100
        assert not page.faults(), path.name
        elsewhere = [url for url in page.requests() if not url.startswith((address, "data:"))]
        assert not elsewhere, path.name


def test_the_landing_page_also_opens_as_a_file(browser, site):
    page = browser.page()
    page.open((site / "index.html").as_uri())
    wait_for_the_view(page)
    assert not page.faults()


def text_of(page, name: str) -> str:
    return page.run(f"document.getElementById('view-{name}').textContent")


def pixels(page, name: str) -> list[int]:
    """A few values of a panel's canvas."""
    canvas = f"document.getElementById('view-{name}')"
    every = f"Array.from({canvas}.getContext('2d').getImageData(0, 0, 256, 256).data)"
    return page.run(f"{every}.filter((_, place) => place % 997 === 0)")


def press(page, key) -> str:
    """Press a key and wait until the view has drawn; what it says then."""
    before = text_of(page, "status")
    page.press(*key)
    page.wait(f"document.getElementById('view-status').textContent !== {before!r}")
    return text_of(page, "status")


def test_the_view_reacts_to_the_keyboard(landing):
    assert len(set(pixels(landing, "noisy"))) > 50
    landing.run("document.querySelector('input[name=view-image]').focus()")
    shown = pixels(landing, "denoised")
    press(landing, RIGHT)  # the next picture
    assert landing.run("document.querySelector('input[name=view-image]:checked').value") == "1"
    assert pixels(landing, "denoised") != shown

    landing.press(*TAB)
    assert landing.run("document.activeElement.id") == "view-level"
    noisy = pixels(landing, "noisy")
    assert "noise 0.3" in press(landing, RIGHT)
    assert pixels(landing, "noisy") != noisy
    level = "document.getElementById('view-level').getAttribute('aria-valuetext')"
    assert landing.run(level).endswith("0.3")
    assert "noise 0.5" in press(landing, END)
    assert "0.5" in text_of(landing, "level-text")
    label = "document.getElementById('view-denoised').getAttribute('aria-label')"
    assert "dB" in landing.run(label)
    # reading pixels back is how this test looks, and the browser warns of it
    assert not [fault for fault in landing.faults() if "getImageData" not in fault]


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
    links = "[...document.querySelectorAll('#search-results a')].map(a => a.href).join()"
    assert ".html" in page.run(links)
    assert not page.faults()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["index", "notebooks/06_verdicts", "notebooks/03_moe_training", "findings", "log"]
)
def test_contrast_names_and_keyboard_pass_axe(browser, address, name, theme):
    package = importlib.util.find_spec("axe_core_python")
    if package is None:
        pytest.skip("axe-core-python is not installed: `make site` installs it")
    page = browser.page()
    scheme = {"name": "prefers-color-scheme", "value": theme}
    page.call("Emulation.setEmulatedMedia", features=[scheme])
    page.open(f"{address}{name}.html")
    assert page.run("document.documentElement.dataset.theme") == theme
    page.run((Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    assert not page.run(AXE)
    # it does find what is put in, at the top, where nothing of a long page can lie over it
    faulty = "<p style=color:#999>pale</p><img src=x>"
    page.run(f"document.querySelector('article').insertAdjacentHTML('afterbegin', '{faulty}')")
    found = " ".join(page.run(AXE))
    assert "image-alt" in found and ("color-contrast" in found or theme == "dark")


def test_a_narrow_screen_does_not_scroll_sideways(browser, address, site, pages):
    page = browser.page(width=390, height=800)
    wide = []
    for path in pages:
        page.open(address + path.relative_to(site).as_posix())
        if page.run("document.documentElement.scrollWidth") > 390:
            wide.append(path.name)
    assert not wide


def test_a_line_of_code_of_88_columns_is_seen_whole(browser, address):
    page = browser.page()
    page.open(address + "notebooks/01_data_verification.html")
    block = "[...document.querySelectorAll('div.cell_input pre')].find(pre => pre.offsetWidth)"
    fits = f"(() => {{ const pre = {block}; return pre.scrollWidth <= pre.clientWidth; }})()"
    page.run(f"{block}.textContent = 'x'.repeat(88); 0")
    assert page.run(fits)
    page.run(f"{block}.textContent = 'x'.repeat(200); 0")
    assert not page.run(fits)


def test_plumbing_is_folded_and_opens(browser, address):
    page = browser.page()
    page.open(address + "notebooks/01_data_verification.html")
    folds = "[...document.querySelectorAll('details.hide')]"
    closed = page.run(f"{folds}.filter(fold => !fold.open).map(fold => fold.innerText).join()")
    assert "How this notebook finds the project" in closed and "Parameters of this run" in closed
    code = f"{folds}[0].querySelector('pre')"
    assert not page.run(f"{code}.checkVisibility()")
    page.run(f"{folds}[0].querySelector('summary').click()")
    assert page.run(f"{code}.checkVisibility()")


def test_what_the_keyboard_reaches_can_be_seen(landing):
    """Tab through the landing page: every stop has an outline or a shadow."""
    landing.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    look = """(() => {
        const stop = document.activeElement;
        const shown = stop.matches("input[type=radio]") ? stop.nextElementSibling || stop : stop;
        const style = getComputedStyle(shown);
        const name = stop.id || stop.textContent.trim() || stop.value || stop.className;
        return [stop.tagName, name, style.outlineStyle !== "none" || style.boxShadow !== "none"];
    })()"""
    stops = []
    for _ in range(25):
        landing.press(*TAB)
        stops.append(landing.run(look))
    assert len({(tag, name) for tag, name, _ in stops}) > 15
    assert not [stop for stop in stops if stop[0] != "BODY" and not stop[2]]
