"""What notebook 01 takes from `params.yaml`."""

from typing import Annotated

from pydantic import Field

from lib.common.params import Count, Positive, Section, Share, Sigma


class Data(Section):
    """Notebook 01: the data and their noise."""

    sigma: Sigma
    blur_sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    val_share: Share
    bias_levels: Annotated[int, Field(ge=3)]
    tune_images: Count
