"""What EM graph diffusion takes from `params.yaml`."""

from typing import Annotated

from pydantic import Field

from lib.common.params import Count, NotNegative, Section, Seeds, Sigma


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
