"""Yardsticks: unigram, modified Kneser-Ney, a copy predictor and adaptive compressors; all prices in nats.

Modified interpolated Kneser-Ney after Chen and Goodman (1999), down to the uniform distribution. An n-gram is one
64-bit integer in base V, so a count table is a sorted array and a look-up is a binary search.
Shapes: N symbols, V vocabulary, n order. `before` arrays hold the symbols that precede a scored text.
"""

import bz2
import lzma
from dataclasses import dataclass

import numpy as np


def unigram_nats(train: np.ndarray, ids: np.ndarray, vocab: int) -> np.ndarray:
    """Prices (N,) under add-one smoothed symbol frequencies of the training text."""
    counts = np.bincount(train, minlength=vocab) + 1.0
    return -np.log(counts / counts.sum())[ids]


def _codes(ids: np.ndarray, n: int, vocab: int) -> np.ndarray:
    """Every n-gram of the sequence as one integer (N-n+1,)."""
    codes = np.zeros(len(ids) - n + 1, dtype=np.int64)
    for k in range(n):
        codes = codes * vocab + ids[k : len(ids) - n + 1 + k]
    return codes


def _find(table: np.ndarray, keys: np.ndarray):
    """Positions of keys in a sorted table and whether they are there."""
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return at, table[at] == keys


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D(1), D(2), D(3+) from the counts of counts (Chen and Goodman, equation 26), kept inside (0, count)."""
    number = {count: max(int((counts == count).sum()), 1) for count in (1, 2, 3, 4)}
    scale = number[1] / (number[1] + 2 * number[2])
    discounts = [0.0]  # of a count of 0
    for count in (1, 2, 3):
        raw = count - (count + 1) * scale * number[count + 1] / number[count]
        discounts.append(min(max(raw, 0.05), count - 0.05))
    return np.array(discounts)


@dataclass(frozen=True)
class _Order:
    grams: np.ndarray  # sorted codes
    kept: np.ndarray  # count - discount
    contexts: np.ndarray  # sorted codes of the first n-1 symbols
    total: np.ndarray  # sum of counts per context
    spare: np.ndarray  # discounted mass per context


class KneserNey:
    """Modified interpolated Kneser-Ney of the given order, learned from id streams."""

    def __init__(self, streams, order: int, vocab: int):
        if vocab**order > 2**62:
            raise ValueError(
                f"order {order} over {vocab} symbols does not fit 64 bits: use a lower order"
            )
        self.order, self.vocab = order, vocab
        found = np.concatenate([_codes(stream, order, vocab) for stream in streams])
        grams, counts = np.unique(found, return_counts=True)
        levels = [self._level(grams, counts, vocab)]
        for n in range(order - 1, 0, -1):
            # Lower orders count in how many left contexts an n-gram was seen; the start of a text is one, too.
            starts = np.concatenate([_codes(stream[:n], n, vocab) for stream in streams])
            ends = grams % vocab**n  # the last n symbols of each known (n+1)-gram
            grams, counts = np.unique(np.concatenate([ends, starts]), return_counts=True)
            levels.append(self._level(grams, counts, vocab))
        self.levels = levels[::-1]  # from order 1 on

    @staticmethod
    def _level(grams, counts, vocab) -> _Order:
        taken = _discounts(counts)[np.minimum(counts, 3)]
        contexts, first = np.unique(grams // vocab, return_index=True)
        total = np.add.reduceat(counts, first)
        spare = np.add.reduceat(taken, first)
        return _Order(grams, counts - taken, contexts, total, spare)

    def probabilities(self, contexts: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """P (N,) of each id after its context row (N, n-1), nearest symbol last."""
        chance = np.full(len(ids), 1.0 / self.vocab)
        code, power = np.zeros(len(ids), dtype=np.int64), 1
        for n, level in enumerate(self.levels, start=1):
            if n > 1:  # one symbol further back
                code = code + contexts[:, -(n - 1)].astype(np.int64) * power
                power *= self.vocab
            at, seen = _find(level.contexts, code)
            row, hit = _find(level.grams, code * self.vocab + ids)
            mixed = (level.kept[row] * hit + level.spare[at] * chance) / level.total[at]
            chance = np.where(seen, mixed, chance)
        return chance

    def nats(self, ids: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Prices (N,) of a text that follows `before` (at least order - 1 symbols)."""
        n = self.order - 1
        joined = np.concatenate([before[len(before) - n :], ids])
        if n == 0:
            contexts = joined[:, None]  # not read
        else:
            windows = np.lib.stride_tricks.sliding_window_view(joined, n)
            contexts = windows[: len(ids)]  # (N, n)
        return -np.log(self.probabilities(contexts, ids))


def growing_nats(
    streams, order: int, vocab: int, ids: np.ndarray, before: np.ndarray, block: int = 256
) -> np.ndarray:
    """Prices (N,) of a Kneser-Ney model that counts the text too, as far as it has been read in whole blocks."""
    found = []
    for start in range(0, len(ids), block):
        read = ids[:start]
        known = [*streams, read] if start >= order else streams  # a stream holds an n-gram or more
        model = KneserNey(known, order, vocab)
        text = ids[start : start + block]
        found.append(model.nats(text, np.concatenate([before, read])))
    return np.concatenate(found)


def mixed_nats(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """Prices of the mixture: weight on `a`, the rest on `b` (N,)."""
    return -np.logaddexp(np.log(weight) - a, np.log1p(-weight) - b)


def best_weight(a: np.ndarray, b: np.ndarray) -> float:
    """The weight among 0.05, 0.10 ... 0.95 with the lowest mean price; call it on validation prices only."""
    return float(min(np.arange(1, 20) / 20, key=lambda w: mixed_nats(a, b, w).mean()))


def copy_nats(
    train: np.ndarray, ids: np.ndarray, vocab: int, n: int = 8, trust: float = 0.95
) -> np.ndarray:
    """A predictor that learns nothing: `trust` on what followed the last n symbols in the training part, if seen."""
    follower = {}  # the last n symbols -> what followed them, the last time they came
    for start in range(len(train) - n):
        follower[tuple(train[start : start + n])] = int(train[start + n])

    joined = np.concatenate([train[len(train) - n :], ids])
    guesses = []  # -1 where nothing is to be copied
    for place in range(len(ids)):
        past = tuple(joined[place : place + n])
        guesses.append(follower.get(past, -1))
    guess = np.array(guesses)  # (N,)

    unigram = np.exp(-unigram_nats(train, ids, vocab))
    copied = trust * (guess == ids) + (1 - trust) * unigram
    return -np.log(np.where(guess < 0, unigram, copied))


def adaptive_bits(coder: str, train: str, text: str) -> float:
    """Bits per character of `text` after `train` for xz or bzip2: C(train + text) - C(train); else ValueError."""
    coders = {
        "xz": lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME),
        "bzip2": bz2.compress,
    }
    if coder not in coders:
        raise ValueError(f"unknown coder {coder!r}: use one of {sorted(coders)}")
    size = [len(coders[coder](t.encode())) for t in (train, train + text)]
    return 8.0 * (size[1] - size[0]) / len(text)
