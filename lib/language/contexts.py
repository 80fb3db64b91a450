"""What stands before a symbol, seen in different ways: each function turns the past into one integer, a context.

The mixer counts which symbols followed each context. A function is given the symbols read so far, `ids`, and the
place `t` of the symbol to come; it looks at ids[:t] only. Equal pasts give equal codes; codes of different pasts
differ but for rare collisions of a 64-bit hash.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

ORDERS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 12)  # symbols of the past in the Kneser-Ney contexts
REACH = 100  # no context looks further back than this, but for the previous words
SPREAD = 1_000_003  # base of the polynomial hash


class Alphabet(NamedTuple):
    """What the contexts know of the V symbols."""

    letter: np.ndarray  # (V,) the number of the lower-case letter, 0 for what is no letter
    kind: np.ndarray  # (V,) 0 lower case, 1 upper case, 2 blank, 3 end of line, 4 other
    line_end: int  # the symbol that ends a line, -1 where there is none


def alphabet_of(pieces) -> Alphabet:
    """The alphabet of a vocabulary of characters."""
    letters = [ord(piece.lower()) if len(piece) == 1 and piece.isalpha() else 0 for piece in pieces]
    kinds = [_kind(piece) for piece in pieces]
    line_end = kinds.index(3) if 3 in kinds else -1
    return Alphabet(np.array(letters, np.int64), np.array(kinds, np.int64), line_end)


def _kind(piece: str) -> int:
    tests = (piece.islower(), piece.isupper(), piece == " ", piece == "\n", True)
    return tests.index(True)


@njit(cache=True)
def symbol_back(ids, t, distance):
    """The symbol `distance` places before t; 0 where the past does not reach that far."""
    return np.int64(ids[t - distance]) if t >= distance else np.int64(0)


@njit(cache=True)
def last_symbols(ids, t, count):
    """The last `count` symbols."""
    code = np.int64(0)
    for distance in range(1, count + 1):
        code = code * SPREAD + symbol_back(ids, t, distance) + 1
    return code


@njit(cache=True)
def word_start(ids, t, letter):
    """Place where the word that ends at t began; t itself when no letter stands before it."""
    start = t
    while start > 0 and t - start < REACH and letter[ids[start - 1]] > 0:
        start -= 1
    return start


@njit(cache=True)
def word_end_before(ids, t, letter):
    """Place just behind the last letter before t."""
    end = t
    while end > 0 and t - end < REACH and letter[ids[end - 1]] == 0:
        end -= 1
    return end


@njit(cache=True)
def spelling(ids, start, end, letter):
    """The letters from start to end, in lower case."""
    code = np.int64(0)
    for place in range(start, end):
        code = code * SPREAD + letter[ids[place]] + 1
    return code


@njit(cache=True)
def word(ids, t, letter):
    """The word so far."""
    return spelling(ids, word_start(ids, t, letter), t, letter)


@njit(cache=True)
def previous_words(ids, t, letter, count):
    """The word so far and `count` words before it."""
    start = word_start(ids, t, letter)
    code = spelling(ids, start, t, letter) + 1
    for _ in range(count):
        end = word_end_before(ids, start, letter)
        start = word_start(ids, end, letter)
        code = code * SPREAD + spelling(ids, start, end, letter) + 1
    return code


@njit(cache=True)
def column(ids, t, line_end):
    """How many symbols the line has so far."""
    start = t
    while start > 0 and t - start < REACH and ids[start - 1] != line_end:
        start -= 1
    return t - start


@njit(cache=True)
def symbol_above(ids, t, line_end):
    """The symbol in the same column of the line before; 0 where that line is shorter."""
    here = column(ids, t, line_end)
    end_above = t - here - 1  # place of the end of the line before
    if end_above < 0:
        return np.int64(0)
    place = end_above - column(ids, end_above, line_end) + here
    return np.int64(ids[place]) if place < end_above else np.int64(0)


WORD_KINDS = ("word", "1 word before", "2 words before", "column", "symbol above", "line start")
SPARSE_KINDS = ("2nd, 3rd", "2nd, 3rd, 4th", "1st, 3rd, 4th")
NAMES = tuple(f"last {n}" for n in ORDERS) + WORD_KINDS + SPARSE_KINDS


@njit(cache=True)
def fill_codes(ids, t, alphabet, codes):
    """All contexts of place t, in the order of NAMES, into codes (K,)."""
    for k in range(len(ORDERS)):
        codes[k] = last_symbols(ids, t, ORDERS[k])
    k = len(ORDERS)
    this_word = word(ids, t, alphabet.letter)
    here = column(ids, t, alphabet.line_end)
    after_blank = np.int64(t > 0 and alphabet.kind[ids[t - 1]] == 2)
    inside_word = np.int64(this_word != 0)
    codes[k] = this_word
    codes[k + 1] = previous_words(ids, t, alphabet.letter, 1)
    codes[k + 2] = previous_words(ids, t, alphabet.letter, 2)
    codes[k + 3] = here * 4 + after_blank + 2 * inside_word
    codes[k + 4] = symbol_above(ids, t, alphabet.line_end) * SPREAD + symbol_back(ids, t, 1)
    codes[k + 5] = min(here, 8) * SPREAD + this_word
    second, third, fourth = (
        symbol_back(ids, t, 2),
        symbol_back(ids, t, 3),
        symbol_back(ids, t, 4),
    )
    codes[k + 6] = second * SPREAD + third
    codes[k + 7] = (second * SPREAD + third) * SPREAD + fourth
    codes[k + 8] = (symbol_back(ids, t, 1) * SPREAD + third) * SPREAD + fourth
