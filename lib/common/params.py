"""Find the project, read `params.yaml` once, and refuse what it does not allow.

A section of the file has `common` values and one block per profile; the profile's values win. `load` merges them
into frozen pydantic models, so that a wrong key, type or range stops before anything runs and names the key, the
value and what is allowed.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PROFILES = ("sample", "full")


class UserError(Exception):
    """A fault that the user can mend. The message says what, where and what to do, on one line."""


Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0, lt=1)]
Sigma = Annotated[
    float, Field(gt=0, le=1, description="noise standard deviation, pixel values in [0, 1]")
]


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)]


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


class Data(Section):
    """Notebook 01: the data and their noise."""

    sigma: Sigma
    blur_sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    val_share: Share
    bias_levels: Annotated[int, Field(ge=3)]
    tune_images: Count


class Announced(Section):
    """Notebook 03: the announced mixture and its recipe."""

    sigma: Sigma
    batch: Count
    learning_rate: Positive
    weight_decay: NotNegative
    clip: Positive
    balance: NotNegative
    train_images: Count
    val_images: Count
    epochs: Count
    log_every: Count


class Em(Section):
    """Notebook 02: EM graph diffusion."""

    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1, strict=False)]
    patch: Annotated[int, Field(ge=3, le=8)]
    components: Count
    rank: Count
    iterations: Count
    fit_images: Count
    fit_patches: Count
    tune_images: Count
    eval_images: Count
    subset_images: Count
    eval_seeds: Seeds
    ridge: NotNegative
    show_patches: Count
    show_components: Count
    loop_batch: Count
    loop_every: Count
    loop_steps: Count
    loop_images: Count
    loop_seeds: Count


class Mixture(Section):
    """Notebook 03: our mixture, its controls and their common recipe."""

    threads: Count
    sigma: Sigma
    batch: Count
    learning_rate: Positive
    muon: Positive
    weight_decay: NotNegative
    clip: Positive
    balance: Annotated[float, Field(ge=0, le=0)]
    average: Share
    varied: Share
    flips: bool
    bf16: bool
    logarithm: bool
    whole: Annotated[float, Field(ge=0, lt=1)]
    schedule: Literal["trapezoid"]
    cooling: Share
    train_images: Count
    val_images: Count
    epochs: Count
    log_every: Count


class Language(Section):
    """Notebooks 04 and 05: the networks, their recipe and how they are priced."""

    width: Count
    layers: Count
    heads: Count
    hidden: Count
    context: Count
    gram_buckets: Annotated[tuple[Count, ...], Field(max_length=2, strict=False)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    lstm_layers: Count
    lstm_hidden: Count
    lstm_dropout: Annotated[float, Field(ge=0, lt=1)]
    gram_dropout: Annotated[float, Field(ge=0, lt=1)]
    batch: Count
    adam: Positive
    muon: NotNegative
    warmup: Share
    average: Annotated[float, Field(ge=0, lt=1)]
    adapt_rate: Positive
    adapt_stride: Count
    stride: Count
    order: Annotated[int, Field(ge=1, le=9)]
    block: Count
    small_width: Count
    word_rate: Positive
    attention_steps: Count
    lstm_steps: Count
    small_steps: Count
    word_steps: Count


class Params(Frozen):
    """All of `params.yaml` for one profile."""

    profile: Literal["sample", "full"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    seed: Seed
    seeds: Trainings
    full_seeds: Trainings
    noise_seed: Seed
    data: Data
    announced: Announced
    em: Em
    mixture: Mixture
    language: Language


SECTIONS = {
    name: field.annotation
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


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
    checked = {
        name: _build(raw, name, path.name) for name in PROFILES
    }  # both: a fault must not wait for `make full`
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
        raise UserError(
            f"{path.name}: not readable as YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path.name}: expected keys and values, found {type(value).__name__}")
    return value


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
    values = {
        key: _merge(key, value, profile, name) if key in SECTIONS else value
        for key, value in raw.items()
    }
    try:
        return Params.model_validate({**values, "profile": profile})
    except ValidationError as error:
        raise UserError(
            "; ".join(f"{name}: {_tell(fault, raw, profile)}" for fault in error.errors())
        ) from None


def _merge(section: str, blocks: Any, profile: str, name: str) -> dict:
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
    return {**(blocks.get("common") or {}), **(blocks.get(profile) or {})}


def _tell(fault: dict, raw: dict, profile: str) -> str:
    """One pydantic fault as `section.block.key = value: what is allowed`."""
    where = [str(part) for part in fault["loc"]]
    if where[0] in SECTIONS and len(where) > 1:
        inside = where[1] in (raw[where[0]].get(profile) or {})
        where.insert(1, profile if inside else "common")
    key = ".".join(where)
    if fault["type"] == "extra_forbidden":
        model = Params.model_fields[where[0]].annotation if len(where) > 1 else Params
        return f"{key}: unknown key; allowed are {', '.join(model.model_fields)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    return f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
