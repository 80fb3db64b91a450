"""What the mixture takes from `params.yaml`: the announced recipe, that of the bank, and that of the other networks."""

from typing import Annotated, Literal

from pydantic import Field

from lib.common.params import Count, NotNegative, Positive, Section, Share, Sigma


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


class Bank(Section):
    """Notebook 03: the members of the adaptive mixture's bank, and the images that its router is fitted to."""

    threads: Count
    sigma: Sigma
    batch: Count
    learning_rate: Positive
    muon: Positive
    weight_decay: NotNegative
    clip: Positive
    balance: Annotated[float, Field(ge=0, le=0)]
    average: Share
    maps: Share
    flips: bool
    bf16: bool
    logarithm: bool
    schedule: Literal["trapezoid"]
    cooling: Share
    train_images: Count
    val_images: Count
    epochs: Count
    log_every: Count
    router_images: Count


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
