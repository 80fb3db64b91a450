"""Find the project, read `params.yaml` once, and refuse what it does not allow.

The file has values for everybody (seed, threads, ...) and sections. A section has `common` values and one block per
profile; the profile's values win. `load` checks the whole file, for both profiles, so that a wrong key, type or range
stops before anything runs and names the key, the value and what is allowed.

What a section may hold stands in its package, as a pydantic model beside the code that reads it. This module knows
the models by name only and imports them when it reads the file: a stage of the pipeline depends on its own section
and not on those of others.
"""

import functools
import importlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

PROFILES = ("sample", "full")
SECTIONS = {  # section of params.yaml -> its model
    "data": "lib.common.settings.Data",
    "announced": "lib.mixture.settings.Announced",
    "bank": "lib.mixture.settings.Bank",
    "em": "lib.diffusion.settings.Em",
    "mixture": "lib.mixture.settings.Mixture",
    "language": "lib.language.settings.Language",
}


class UserError(Exception):
    """A fault that the user can mend. The message says what, where and what to do, on one line."""


# Types of values, for the models of the sections.

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Sigma = Annotated[
    float, Field(gt=0, le=1, description="noise standard deviation, pixel values in [0, 1]")
]


class Frozen(BaseModel):
    """An unknown key is an error; types are strict, but an integer passes where a number is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Section(Frozen):
    """What a study takes from `params.yaml`: `common` values and those of a profile."""


class Trainings(Frozen):
    """Seeds of the trainings of each study; the announced mixture costs more than ours and has its own."""

    announced: Seeds
    mixture: Seeds
    language: Seeds


class Params(Frozen):
    """The values for everybody. What `load` returns also has a field for each section, by its name."""

    profile: Literal["sample", "full"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    seed: Seed
    seeds: Trainings
    full_seeds: Trainings
    noise_seed: Seed


def root() -> Path:
    """The project's folder: the nearest one above this file that holds `params.yaml`."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "params.yaml").is_file():
            return folder
    raise UserError(
        "params.yaml: not found in any folder above lib/; run from a clone of the project"
    )


def output_folder(output: str) -> Path:
    """Where a notebook writes: its parameter `output` under the root, or under NOTEBOOK_OUTPUT where that is set.

    Tests that run a notebook again set the variable, so that they never touch committed results.
    """
    return Path(os.environ.get("NOTEBOOK_OUTPUT") or root()) / output


def load(profile: str | None = None, path: Path | None = None) -> Params:
    """Read and check `params.yaml`.

    Args:
        profile: "sample" or "full"; without it the profile that the file names.
        path: the file; without it the project's own.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, a value has the wrong type or
            lies out of range, whichever profile the fault is in.
    """
    path = path or root() / "params.yaml"
    raw = read_yaml(path)
    asked = profile or raw.get("profile")
    if asked not in PROFILES:
        raise UserError(f"{path.name}: profile = {asked!r}: allowed are {', '.join(PROFILES)}")
    # both profiles: a fault must not wait for `make full`
    checked = {name: _build(raw, name, path.name) for name in PROFILES}
    return checked[asked]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; a missing file, a syntax error or a key that stands twice is a UserError."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoTwins)
    except FileNotFoundError:
        raise UserError(
            f"{path.name}: not found; restore it with `git checkout {path.name}`"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.name}: not readable as YAML: {reason}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path.name}: expected keys and values, found {type(value).__name__}")
    return value


def section_model(section: str) -> type[Section]:
    """The pydantic model of a section, from its package."""
    module, name = SECTIONS[section].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@functools.cache
def _whole_model() -> type[Params]:
    """`Params` with a field for each section."""
    fields = {section: (section_model(section), ...) for section in SECTIONS}
    return create_model("Params", __base__=Params, **fields)


class _NoTwins(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here the second one is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def _build(raw: dict, profile: str, name: str) -> Params:
    """The parameters of a profile from the file's content; `name` is the file's, for errors."""
    values = {}
    for key, value in raw.items():
        values[key] = _merge(key, value, profile, name) if key in SECTIONS else value
    values["profile"] = profile
    try:
        return _whole_model().model_validate(values)
    except ValidationError as error:
        faults = [f"{name}: {_tell(fault, raw, profile)}" for fault in error.errors()]
        raise UserError("; ".join(faults)) from None


def _merge(section: str, blocks: Any, profile: str, name: str) -> dict:
    """The values of a section: its `common` block with the profile's block over it."""
    known = ("common", *PROFILES)
    if not isinstance(blocks, dict):
        raise UserError(f"{name}: {section} = {blocks!r}: expected the blocks {', '.join(known)}")
    for block, values in blocks.items():
        if block not in known:
            raise UserError(
                f"{name}: {section}.{block}: unknown block; allowed are {', '.join(known)}"
            )
        if not isinstance(values, dict | None):
            raise UserError(f"{name}: {section}.{block} = {values!r}: expected keys and values")
    common = blocks.get("common") or {}
    own = blocks.get(profile) or {}
    return common | own


def _tell(fault: dict, raw: dict, profile: str) -> str:
    """One pydantic fault as `section.block.key = value: what is allowed`."""
    where = [str(part) for part in fault["loc"]]
    inside_section = where[0] in SECTIONS and len(where) > 1
    if inside_section:
        own_block = raw[where[0]].get(profile) or {}
        where.insert(1, profile if where[1] in own_block else "common")
    key = ".".join(where)
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "extra_forbidden":
        owner = _whole_model()
        if len(where) > 1:
            owner = owner.model_fields[where[0]].annotation
        return f"{key}: unknown key; allowed are {', '.join(owner.model_fields)}"
    return f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
