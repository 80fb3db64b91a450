"""What the language models take from `params.yaml`."""

from typing import Annotated

from pydantic import Field

from lib.common.params import Count, NotNegative, Positive, Section, Share


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
