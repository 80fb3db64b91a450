"""Weights and checkpoints on disk: the one module that writes and reads safetensors, for all three systems.

Arrays are NumPy's, so that it belongs to no framework. A file is whole or absent. What ships in models/ is checked
against models/sha256.json whenever it is read, since one flipped bit still makes a valid file. A checkpoint carries
an identity, everything that decides its run, and is refused by a run with another one.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from lib.common import files
from lib.common.params import UserError, root

REGISTRY = "models/sha256.json"
KIND = "weights of this project"
CURE = "delete it and train again"


class Stored(NamedTuple):
    """What a file holds: arrays by name, and what is said about them (JSON values by key)."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]


def save(
    path: Path | str, arrays: dict[str, np.ndarray], about: dict[str, Any] | None = None
) -> None:
    """Write arrays and, as JSON, what is said about them; the file is whole or absent.

    Equal content makes equal bytes when `about` has at most one key: safetensors writes several in an order that
    differs from run to run.
    """
    metadata = {key: json.dumps(value) for key, value in about.items()} if about else None
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with files.atomic(path) as partial:
        partial.write_bytes(to_bytes(contiguous, metadata))
    _enter_shipped(Path(path))


def load(path: Path | str, *, kind: str = KIND, cure: str = CURE) -> Stored:
    """Read what `save` wrote.

    Args:
        kind, cure: what the file should be and what to do if it is not, for the error's line.

    Raises:
        UserError: missing, no safetensors file, or a file of models/ that is not what was shipped.
    """
    path = Path(path)
    with readable(path, kind=kind, cure=cure):
        check_shipped(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        about = {key: json.loads(text) for key, text in metadata.items()}
    return Stored(arrays, about)


@contextlib.contextmanager
def readable(path: Path | str, *, kind: str = KIND, cure: str = CURE) -> Iterator[None]:
    """Whatever goes wrong in reading `path` inside the block becomes one UserError that names file and cure."""
    name = Path(path).name
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{name}: not found; {cure}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{name}: no {kind} ({reason}); {cure}") from None


def check_shapes(
    path: Path | str, arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Refuse a file whose arrays are not those of the network that is to take them.

    Args:
        shapes: the shape of each array that the network has, by name.

    Raises:
        UserError: names one array that is missing, too many, or of another shape.
    """
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in sorted(found.keys() | shapes.keys()):
        if found.get(name) != shapes.get(name):
            has, wanted = found.get(name, "missing"), shapes.get(name, "none")
            raise UserError(
                f"{Path(path).name}: of another network: {name} is {has}, expected {wanted}; {CURE}"
            )


# what ships


def check_shipped(path: Path) -> None:
    """Compare a file of models/ with its sha256 in the registry; files elsewhere are not shipped and pass.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is another file than the one that was shipped, or has no entry in the registry.
    """
    if not _ships(path):
        return
    name = f"models/{path.name}"
    found = files.sha256(path)
    shipped = _registry()
    if path.name not in shipped:
        raise UserError(
            f'{name}: not in {REGISTRY}; if it is yours, enter "{path.name}": "{found}"'
        )
    if found != shipped[path.name]:
        raise UserError(
            f"{name}: changed since it was shipped (sha256 {found[:12]}, expected "
            f"{shipped[path.name][:12]}); restore it with `git checkout {name}`"
        )


def _enter_shipped(path: Path) -> None:
    """What is saved into models/ is what ships from now on: git shows the changed line of the registry."""
    if _ships(path):
        entries = _registry() | {path.name: files.sha256(path)}
        files.write_json(root() / REGISTRY, entries)


def _ships(path: Path) -> bool:
    return path.resolve().parent == root() / "models"


def _registry() -> dict[str, str]:
    try:
        return json.loads((root() / REGISTRY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{REGISTRY}: not readable; restore it with `git checkout {REGISTRY}`"
        ) from None


# whose checkpoint


def identity(data: np.ndarray, *settings: Any, **values: Any) -> dict[str, Any]:
    """Everything that decides a training run, as plain JSON values: what a checkpoint carries and is compared by.

    Args:
        data: what it trains on; it stands as the hash of its type, shape and bytes.
        settings: dataclasses (configuration, recipe), whose fields stand by their names.
        values: anything else, for example the seed.

    Raises:
        ValueError: two settings have a field of the same name.
    """
    found = {"data": array_hash(data)} | values
    for part in settings:
        fields = dataclasses.asdict(part)
        if twice := found.keys() & fields.keys():
            raise ValueError(f"{', '.join(sorted(twice))} stands in more than one of the settings")
        found |= fields
    return plain(found)


def array_hash(array: np.ndarray) -> str:
    """The first 16 digits of the sha256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def check_same(path: Path | str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a file that was made with other settings. UserError names both where they differ."""
    differ = sorted(
        key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
    )
    if differ:
        has = {key: found.get(key) for key in differ}
        wanted = {key: expected.get(key) for key in differ}
        raise UserError(
            f"{Path(path).name}: of another run: made with {has}, asked for {wanted}; "
            f"delete it to start afresh, or use its settings"
        )


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: dataclasses as dictionaries, tuples as lists."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value))
