"""The data: what every file must be, reading it, fixed splits, seeded noise, the books.

Images are CIFAR-10 in its own binary format (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009): a record is one label byte (0..9), then 3,072 bytes, channel by channel and row by row.
`sample` is the part that ships in data/: the first 500 training and the first 100 test images of each class,
kept in canonical order. `full` is the whole set, in a folder outside the repository (lib/tools/fetch.py gets it).

The sizes and sha256 below stand in code that git tracks, not in data/: a changed data/ cannot vouch for itself.
Every reader checks its files first and stops with one UserError; nothing is repaired or overwritten here.

Shapes: N images, C = 3 channels (red, green, blue), H = W = 32 pixels.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs

from lib.common.files import sha256
from lib.common.params import UserError, root

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then three planes of 32 x 32
PER_CLASS = {"train": 500, "test": 100}  # images of each class in the shipped sample


class Known(NamedTuple):
    """What a file must be: its size in bytes and its sha256 in hexadecimal."""

    bytes: int
    sha256: str


SHIPPED = {
    "README.md": Known(3_450, "2d59f102bf6f0ddf9afa1a168cfbc9e62ba592be89ed38ce11fa9332db5fc78d"),
    "books/alice29.txt": Known(
        152_089, "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0"
    ),
    "books/asyoulik.txt": Known(
        125_179, "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc"
    ),
    "books/hamlet.txt": Known(
        173_942, "bbe5635616c6e0e0bcf01b7b8c324be8b42451c51848f11c283bd2f4442b1e0a"
    ),
    "books/hamlet_folio.txt": Known(
        162_849, "2646ed167a9420283bd955f0a31f789cc0294a0cf38f76758d864f4f8b97d84c"
    ),
    "cifar10_sample/test.bin": Known(
        3_073_000, "2874326af7bc2185faa47540a6da15a077e5b66659f8e479abb9ab628170fa86"
    ),
    "cifar10_sample/train.bin": Known(
        15_365_000, "bf8e2e6b9e381140badf8be7d1755e1397c2141221aeec58a41af45b5ef906a7"
    ),
}
FULL = {
    "data_batch_1.bin": Known(
        30_730_000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"
    ),
    "data_batch_2.bin": Known(
        30_730_000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"
    ),
    "data_batch_3.bin": Known(
        30_730_000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"
    ),
    "data_batch_4.bin": Known(
        30_730_000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"
    ),
    "data_batch_5.bin": Known(
        30_730_000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"
    ),
    "test_batch.bin": Known(
        30_730_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
    ),
}
PROFILES = {"sample": SHIPPED, "full": FULL}
PARTS = {
    ("sample", "train"): ("cifar10_sample/train.bin",),
    ("sample", "test"): ("cifar10_sample/test.bin",),
    ("full", "train"): tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("full", "test"): ("test_batch.bin",),
}
CURES = {
    "sample": "Restore the shipped data: git checkout data.dvc, then dvc pull --force data.dvc",
    "full": "Delete the file if it is there, then run: python -m lib data fetch",
}


def cache_folder() -> Path:
    """Where the full set lies: CIFAR10_CACHE if set, else the user's cache folder (the files lie right in it)."""
    chosen = os.environ.get("CIFAR10_CACHE")
    if chosen:
        return Path(chosen)
    return platformdirs.user_cache_path("attention-on-trial") / "cifar-10-batches-bin"


def folder_of(profile: str) -> Path:
    """The folder that holds a profile's files; ValueError for an unknown profile."""
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; allowed: {', '.join(PROFILES)}")
    return root() / "data" if profile == "sample" else cache_folder()


def verify(
    profile: str = "sample", folder: Path | None = None, names: Iterable[str] | None = None
) -> list[dict]:
    """Check the files of a profile (all of them, or `names`) and return a row for each: name, bytes, sha256.

    Sizes first, then the label bytes (range, and the balance of each part that is complete), then sha256: the
    first thing that is wrong is also the most telling.

    Raises:
        UserError: names file, expected, found and the cure.
        ValueError: a name that is no file of the profile.
    """
    folder = Path(folder) if folder else folder_of(profile)
    known = PROFILES[profile]
    names = set(known if names is None else names)
    strange = sorted(names - known.keys())
    if strange:
        raise ValueError(f"{', '.join(strange)}: not a file of the profile {profile}")
    chosen = {name: known[name] for name in known if name in names}
    cure = CURES[profile]
    for name, wanted in chosen.items():
        _check_size(folder / name, wanted.bytes, cure)
    for (owner, _), parts in PARTS.items():
        if owner == profile and set(parts) <= names:
            _check_labels([folder / name for name in parts], cure)
    for name, wanted in chosen.items():
        _check_hash(folder / name, wanted.sha256, cure)
    return [{"name": name, **wanted._asdict()} for name, wanted in chosen.items()]


def load_cifar(
    part: str, profile: str = "sample", folder: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels uint8 (N,) of "train" or "test", in canonical order, checked first.

    sample: N = 5,000 / 1,000 from data/; full: N = 50,000 / 10,000 from `cache_folder()`.
    """
    if (profile, part) not in PARTS:
        raise ValueError(
            f"profile {profile!r}, part {part!r}: allowed are sample, full and train, test"
        )
    folder = Path(folder) if folder else folder_of(profile)
    names = PARTS[profile, part]
    verify(profile, folder, names)
    files = [np.fromfile(folder / name, dtype=np.uint8) for name in names]
    records = np.concatenate(files).reshape(-1, RECORD)  # (N, 3073)
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
    labels = records[:, 0].copy()
    return images, labels


def draw_sample(records: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` records of each class, in canonical order. (N, 3073) -> (10 * per_class, 3073)"""
    labels = records[:, 0]
    kept = [np.flatnonzero(labels == label)[:per_class] for label in range(len(CLASSES))]
    return records[np.sort(np.concatenate(kept))]


def split(n: int, seed: int, val_share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices: a seeded cut of 0..n-1, disjoint, each sorted. int64 (n - v,), (v,)"""
    held_out = round(n * val_share)
    if not 0 < held_out < n:
        raise ValueError(
            f"n is {n}, val_share {val_share}: both sides of the cut need at least one image"
        )
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def index_hash(indices: np.ndarray) -> str:
    """A name for a list of indices: sha256 of them, in their order, as little-endian 64-bit integers."""
    return hashlib.sha256(np.asarray(indices).astype("<i8").tobytes()).hexdigest()


def add_noise(
    images: np.ndarray,
    sigma: float,
    seed: int,
    clamp: bool = True,
    indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Add Gaussian noise of deviation `sigma` to images in [0, 1]; float32 (N, C, H, W) -> the same shape.

    Image i has its own stream, a Philox counter generator (Salmon et al., SC 2011) with the key (seed, i), so
    its noise depends on nothing else: not on the batch, its size or order. The same seed and index give the same
    noise for any set: use another seed for another set.

    Args:
        clamp: cut the result back to [0, 1], as the announced recipe does.
        indices: (N,), which image of the whole each row is; without it they are 0..N-1, so for a slice
            `images[a:b]` hand on `range(a, b)`.

    Raises:
        ValueError: other types, shapes or ranges.
    """
    indices = range(len(images)) if indices is None else indices
    _check_noise(images, sigma, seed, indices)
    noisy = np.empty_like(images, order="C")
    for row, index in enumerate(indices):
        key = np.array([seed, int(index)], dtype=np.uint64)
        stream = np.random.Generator(np.random.Philox(key=key))
        stream.standard_normal(dtype=np.float32, out=noisy[row])
    noisy *= np.float32(sigma)
    noisy += images
    if clamp:
        np.clip(noisy, 0, 1, out=noisy)
    return noisy


def books(folder: Path | None = None) -> dict[str, str]:
    """The four books by name (alice29, asyoulik, hamlet, hamlet_folio), checked first.

    Line ends are given as a single newline (alice29.txt has CR LF on disk), else the text is as in the file.
    """
    folder = Path(folder) if folder else folder_of("sample")
    names = [name for name in SHIPPED if name.startswith("books/")]
    verify("sample", folder, names)
    return {Path(name).stem: (folder / name).read_text(encoding="ascii") for name in names}


# what a file and a call must be


def _check_size(path: Path, expected: int, cure: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: expected a file of {expected:,} bytes, found none. {cure}")
    size = path.stat().st_size
    if size != expected:
        what = "truncated" if size < expected else "too long"
        raise UserError(f"{path}: {what}, expected {expected:,} bytes, found {size:,}. {cure}")


def _check_labels(paths: Sequence[Path], cure: str) -> None:
    """Every label is 0 to 9, and a whole part has as many images of each class."""
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    for path in paths:
        labels = np.memmap(path, dtype=np.uint8, mode="r")[::RECORD]  # (N,)
        wrong = np.flatnonzero(labels >= len(CLASSES))
        if wrong.size:
            first = int(wrong[0])
            raise UserError(
                f"{path}: record {first}: expected a label 0 to 9, found {labels[first]}. {cure}"
            )
        counts += np.bincount(labels, minlength=len(CLASSES))
    if counts.min() != counts.max():
        files = ", ".join(str(path) for path in paths)
        found = " ".join(str(count) for count in counts)
        raise UserError(
            f"{files}: a label was changed, expected {counts.sum() // 10} images of each class, found {found}. {cure}"
        )


def _check_hash(path: Path, expected: str, cure: str) -> None:
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path}: content changed, expected sha256 {expected}, found {found}. {cure}"
        )


def _check_noise(images: np.ndarray, sigma: float, seed: int, indices: Sequence[int]) -> None:
    if images.dtype != np.float32 or images.ndim != 4:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; expected float32 (N, C, H, W) in [0, 1]"
        )
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images range from {images.min()} to {images.max()}; expected [0, 1]")
    if not 0 <= sigma < np.inf:
        raise ValueError(
            f"sigma is {sigma}; expected a finite deviation >= 0, in units of the range [0, 1]"
        )
    if len(indices) != len(images):
        raise ValueError(f"{len(indices)} indices for {len(images)} images; expected one each")
    if min(seed, *indices, 0) < 0:
        raise ValueError(f"seed {seed} and the indices must not be negative")
