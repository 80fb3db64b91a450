"""The networks of the race: attention and an LSTM, each with whatever is known to help it at this size.

All have the inputs, tied outputs and norms of `symbols.py`. What may be switched on:

* convolution: a causal convolution of each feature over the last three symbols, before attention and before the
  feed-forward, or before the LSTM. It starts as a gentle blur of the present and the symbol before.
* value residual: the values of every block are mixed with those of the first (Zhou et al. 2024).
* skip: an LSTM's layer adds what it was given, where the widths agree.
* head: one causal attention head behind the LSTM (SHA-RNN, Merity 2019).

Shapes: B windows, T symbols, D width, V vocabulary, H state units, h heads, e = D / h.
"""

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from lib.language import causal, lstm
from lib.language.symbols import Config, dropper, embed, normal, rms_norm, to_logits

TAPS = (
    1.0,
    0.3,
    0.0,
)  # of the present symbol, the one before, and the one before that, at the start


@dataclass(frozen=True)
class Rival(Config):
    """A configuration with the switches above."""

    convolution: bool = False
    value_residual: bool = False
    skip: bool = False
    head: bool = False


def init(config: Rival, seed: int = 0) -> dict[str, np.ndarray]:
    """Fresh arrays: those of the plain network, and what the switches add."""
    plain = causal if config.kind == "attention" else lstm
    arrays = plain.init(config, seed)
    if config.kind == "attention":
        for i in range(config.layers):
            arrays |= _block_extras(config, i)
    elif config.convolution:
        arrays["input.taps"] = fresh_taps(config.width)
    if config.head:
        arrays |= _head_arrays(config, seed)
    return arrays


def _block_extras(config: Rival, layer: int) -> dict[str, np.ndarray]:
    extras = {}
    if config.convolution:
        extras[f"layer{layer}.taps1"] = fresh_taps(config.width)
        extras[f"layer{layer}.taps2"] = fresh_taps(config.width)
    if config.value_residual and layer > 0:
        extras[f"layer{layer}.values"] = np.array([0.5, 0.5], np.float32)
    return extras


def _head_arrays(config: Rival, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    wide = config.width
    arrays = {"head.norm": np.ones(wide, np.float32)}
    for name in ("wq", "wk", "wv", "wo"):
        arrays[f"head.{name}"] = normal(rng, wide, wide, std=wide**-0.5)
    arrays["head.wo"] *= 2**-0.5  # it writes to the residual path
    return arrays


def core_size(config: Rival) -> int:
    """Parameters of everything but inputs and outputs."""
    outside = ("symbols", "gram", "norm", "frozen")
    arrays = init(config)
    return sum(array.size for name, array in arrays.items() if not name.startswith(outside))


def of_equal_size(config: Rival, size: int) -> Rival:
    """The LSTM with as many state units as bring its core closest to `size` parameters."""
    best, distance = config, abs(core_size(config) - size)
    for hidden in range(16, 1024):
        found = replace(config, hidden=hidden)
        units = found.hidden
        # 4H sums for each layer's input, its state and a bias; H x D back; the rest does not depend on H
        inner = 4 * units * (config.width + units + 1)
        inner += (config.layers - 1) * 4 * units * (2 * units + 1)
        total = inner + units * config.width + _fixed_size(config)
        if abs(total - size) < distance:
            best, distance = found, abs(total - size)
    return best


def _fixed_size(config: Rival) -> int:
    """Core parameters of an LSTM that do not depend on its state units."""
    taps = len(TAPS) * config.width if config.convolution else 0
    head = 4 * config.width**2 + config.width if config.head else 0
    return taps + head


def fresh_taps(width: int) -> np.ndarray:
    """(3, D): the same gentle blur for every feature."""
    return np.repeat(np.array(TAPS, np.float32)[:, None], width, axis=1)


def convolve(x, taps):
    """x (B, T, D) blurred over the past: sum_k taps[k] * x[t - k], zeros before the window."""
    length = x.shape[1]
    found = taps[0] * x
    for lag in range(1, taps.shape[0]):
        moved = tf.pad(x, [[0, 0], [lag, 0], [0, 0]])[:, :length]
        found += taps[lag] * moved
    return found


def attention_core(params, x, config: Rival, drop):
    """All blocks: (B, T, D) -> (B, T, D)."""
    length = x.shape[1]
    positions, seen = tf.range(length), causal.visible(length, length)
    first_values = None
    for i in range(config.layers):
        at = f"layer{i}."
        normed = rms_norm(x, params[at + "norm1"])
        if config.convolution:
            normed = convolve(normed, params[at + "taps1"])
        q, k, v = causal.heads_of(params, at, normed, config, positions)  # (B, h, T, e) each
        if config.value_residual:
            if first_values is None:
                first_values = v
            else:
                shares = params[at + "values"]
                v = shares[0] * v + shares[1] * first_values
        mixed = causal.join_heads(causal.attend_lean(q, k, v, seen))  # (B, T, D)
        x = x + drop(causal.linear(mixed, params[at + "wo"]))

        normed = rms_norm(x, params[at + "norm2"])
        if config.convolution:
            normed = convolve(normed, params[at + "taps2"])
        up = tf.nn.gelu(causal.linear(normed, params[at + "up"]), approximate=True)
        x = x + drop(causal.linear(up, params[at + "down"]))
    return x


def lstm_core(params, x, config: Rival, drop):
    """All layers, the projection back, and the head: (B, T, D) -> (B, T, D)."""
    if config.convolution:
        x = convolve(x, params["input.taps"])
    x = tf.transpose(x, [1, 0, 2])  # (T, B, D)
    for i in range(config.layers):
        at = f"layer{i}."
        sums = tf.einsum("tbd,dk->tbk", x, params[at + "wx"]) + params[at + "bias"]
        states = drop(lstm.recur(sums, tf.convert_to_tensor(params[at + "wh"])))  # (T, B, H)
        x = x + states if config.skip and i > 0 else states
    x = tf.einsum("tbh,hd->btd", x, params["back"])
    return x + drop(attention_head(params, x)) if config.head else x


def attention_head(params, x):
    """What one causal head of full width finds: (B, T, D) -> (B, T, D)."""
    length = x.shape[1]
    normed = rms_norm(x, params["head.norm"])
    q, k, v = (
        causal.split_heads(causal.linear(normed, params[f"head.{name}"]), 1)
        for name in ("wq", "wk", "wv")
    )
    positions = tf.range(length)
    q, k = causal.rotate(q, positions), causal.rotate(k, positions)
    mixed = causal.attend_lean(q, k, v, causal.visible(length, length))
    return causal.linear(causal.join_heads(mixed), params["head.wo"])


def logits(params, ids, config: Rival, seed=None):
    """(B, T) ids -> (B, T, V); a seed pair switches dropout on."""
    drop = dropper(config.dropout, seed)
    x = drop(embed(params, ids, config, drop))
    core = attention_core if config.kind == "attention" else lstm_core
    return to_logits(params, core(params, x, config, drop))


def race_arms(vocab: int, grams=((2, 8191), (3, 16381)), **smaller) -> dict[str, Rival]:
    """The four of the race by name, equal in core parameters. `smaller` sizes are for trials of the code."""
    shared = {"context": 256, "dropout": 0.15, "gram_dropout": 0.3, "grams": grams} | smaller
    attention = Rival(vocab, kind="attention", convolution=True, value_residual=True, **shared)
    size = core_size(attention)
    memory = replace(attention, kind="lstm", layers=2, value_residual=False, skip=True)
    with_head = replace(memory, head=True)
    return {
        "attention": attention,
        "lstm": of_equal_size(memory, size),
        "lstm-head": of_equal_size(with_head, size),
        "attention-plain": replace(attention, convolution=False),
    }
