"""What both networks share: the configuration, the input embedding, the tied output, norms and dropout.

A network is a dictionary of named arrays and pure functions that read it. The input of a symbol is the sum of its
own vector and, optionally, hashed vectors of the last 2 and 3 symbols; the output uses the symbol vectors again.
Shapes: B windows, T symbols, D width, V vocabulary.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

KINDS = ("attention", "lstm")
POSITIONS = ("rope", "frozen", "none")


@dataclass(frozen=True)
class Config:
    """Shape of a network; the last four fields are the switches of the ablations."""

    vocab: int
    kind: str = "attention"
    width: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int = 512  # feed-forward units (attention) or state units (lstm)
    context: int = 128
    grams: tuple[tuple[int, int], ...] = ((2, 8191), (3, 16381))  # (n, buckets)
    dropout: float = 0.0
    gram_dropout: float = 0.0  # of whole n-gram vectors
    positions: str = "rope"
    project: bool = True  # output projection W_o
    residual: bool = True
    scaled: bool = True  # scores / sqrt(head width)

    def __post_init__(self):
        if self.kind not in KINDS or self.positions not in POSITIONS:
            raise ValueError(
                f"kind {self.kind!r} must be in {KINDS}, positions {self.positions!r} in {POSITIONS}"
            )
        if self.kind == "attention" and (self.width % self.heads or (self.width // self.heads) % 2):
            raise ValueError(f"width {self.width} must split into {self.heads} heads of even width")


def normal(rng, *shape, std: float) -> np.ndarray:
    """Normal float32 array of the given standard deviation."""
    return (std * rng.standard_normal(shape)).astype(np.float32)


def init_symbols(config: Config, rng) -> dict[str, np.ndarray]:
    """Small vectors, so that an untrained network prices every symbol at log V."""
    arrays = {"symbols": normal(rng, config.vocab, config.width, std=0.004)}
    for n, buckets in config.grams:
        arrays[f"gram{n}"] = normal(rng, buckets, config.width, std=0.002)
    if config.positions == "frozen" and config.kind == "attention":
        arrays["frozen_positions"] = normal(rng, config.context, config.width, std=0.004)
    return arrays | {"norm": np.ones(config.width, np.float32)}


def rms_norm(x, gain):
    """Divide by the root mean square over the last axis (Zhang and Sennrich 2019)."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * gain


def dropper(rate: float, seed):
    """A dropout function; every call site draws its own mask from (seed, step). No seed means no dropout.

    With `whole` a vector (the last axis) is dropped as one.
    """
    sites = itertools.count()

    def drop(x, rate=rate, whole: bool = False):
        if seed is None or rate == 0.0:
            return x
        site = next(sites)
        key = tf.stack([seed[0], seed[1] * 1009 + site])  # 1009: more than a step has sites
        judged = x[..., :1] if whole else x  # one draw for each of these
        keep = tf.random.stateless_uniform(tf.shape(judged), key) >= rate
        return tf.where(keep, x / (1.0 - rate), tf.zeros((), x.dtype))

    return drop


def gram_bucket(ids, n: int, buckets: int, vocab: int):
    """Bucket (B, T) of the last n symbols at each place; symbols before the window count as 0."""
    ids = tf.cast(ids, tf.int64)
    length = tf.shape(ids)[1]
    padded = tf.pad(ids, [[0, 0], [n - 1, 0]])  # (B, n-1+T)
    code = 0
    for k in range(n):  # from the oldest of the n symbols to the present one
        code = code * vocab + padded[:, k : k + length]
    return tf.math.floormod(code, buckets)


def embed(params, ids, config: Config, drop=None):
    """(B, T) ids -> (B, T, D); `drop` (see `dropper`) forgets some n-gram vectors."""
    x = tf.gather(params["symbols"], ids)  # (B, T, D)
    for n, buckets in config.grams:
        places = gram_bucket(ids, n, buckets, config.vocab)  # (B, T)
        vectors = tf.gather(params[f"gram{n}"], places)  # (B, T, D)
        if drop:
            vectors = drop(vectors, config.gram_dropout, whole=True)
        x += vectors
    if "frozen_positions" in params:
        table = tf.stop_gradient(tf.convert_to_tensor(params["frozen_positions"]))
        x += table[: tf.shape(ids)[1]]
    mean_square = tf.reduce_mean(tf.square(x), -1, keepdims=True)
    return x * tf.math.rsqrt(mean_square + 1e-12)  # unit scale


def to_logits(params, x):
    """(B, T, D) -> (B, T, V) with the symbol vectors as output weights."""
    return tf.matmul(rms_norm(x, params["norm"]), params["symbols"], transpose_b=True)
