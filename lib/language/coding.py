"""An arithmetic code: what a model's probabilities are worth in bytes, and back again.

The coder keeps an interval of integers and narrows it for every symbol to the symbol's share (Witten, Neal and
Cleary 1987). A text whose price is b bits becomes about b / 8 bytes. The decoder must see the very same probabilities,
so both sides use one model that goes symbol by symbol and learns only from what it has coded.
"""

from collections.abc import Iterable

import numpy as np

BITS = 32
TOP = 1 << BITS
HALF, QUARTER = TOP // 2, TOP // 4
SHARES = 1 << 24  # the probabilities are rounded to so many parts, each symbol getting one or more


def borders(chances: np.ndarray) -> list[int]:
    """Where each symbol's share begins, and the end of the last one: probabilities (V,) -> V + 1 integers."""
    shares = 1 + np.floor(chances * (SHARES - 2 * len(chances))).astype(np.int64)
    return [0, *np.cumsum(shares).tolist()]


class Encoder:
    """Takes symbols with the probabilities they had, gives bytes."""

    def __init__(self):
        self.low, self.high, self.pending = 0, TOP - 1, 0
        self.bits: list[int] = []

    def put(self, symbol: int, chances: np.ndarray) -> None:
        """Narrow the interval to the symbol's share, and write the bits that are now certain."""
        edges = borders(chances)
        width = self.high - self.low + 1
        self.high = self.low + width * edges[symbol + 1] // edges[-1] - 1
        self.low = self.low + width * edges[symbol] // edges[-1]
        while True:
            if self.high < HALF:
                self._write(0)
            elif self.low >= HALF:
                self._write(1)
                self._move_down(HALF)
            elif self.low >= QUARTER and self.high < 3 * QUARTER:
                self.pending += 1  # the next bit decides; those after it are its opposite
                self._move_down(QUARTER)
            else:
                return
            self.low, self.high = 2 * self.low, 2 * self.high + 1

    def _move_down(self, amount: int) -> None:
        self.low -= amount
        self.high -= amount

    def _write(self, bit: int) -> None:
        self.bits += [bit] + [1 - bit] * self.pending
        self.pending = 0

    def finish(self) -> bytes:
        """The bytes; nothing can be put afterwards."""
        self.pending += 1
        self._write(int(self.low >= QUARTER))
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


class Decoder:
    """Takes the bytes and, for each symbol, the probabilities that the encoder had."""

    def __init__(self, code: bytes):
        self.bits = np.unpackbits(np.frombuffer(code, np.uint8))
        self.low, self.high, self.read, self.value = 0, TOP - 1, 0, 0
        for _ in range(BITS):
            self.value = 2 * self.value + self._next_bit()

    def _next_bit(self) -> int:
        bit = int(self.bits[self.read]) if self.read < len(self.bits) else 0
        self.read += 1
        return bit

    def get(self, chances: np.ndarray) -> int:
        """The next symbol."""
        edges = borders(chances)
        width = self.high - self.low + 1
        place = ((self.value - self.low + 1) * edges[-1] - 1) // width
        symbol = int(np.searchsorted(edges, place, side="right")) - 1
        self.high = self.low + width * edges[symbol + 1] // edges[-1] - 1
        self.low = self.low + width * edges[symbol] // edges[-1]
        while True:
            if self.high < HALF:
                moved = 0
            elif self.low >= HALF:
                moved = HALF
            elif self.low >= QUARTER and self.high < 3 * QUARTER:
                moved = QUARTER
            else:
                return symbol
            self.low, self.high = 2 * (self.low - moved), 2 * (self.high - moved) + 1
            self.value = 2 * (self.value - moved) + self._next_bit()


def encode(ids: Iterable[int], model) -> bytes:
    """The code of a text. `model` has `expect()` -> probabilities (V,), and `see(symbol)`."""
    encoder = Encoder()
    for symbol in ids:
        encoder.put(int(symbol), model.expect())
        model.see(int(symbol))
    return encoder.finish()


def decode(code: bytes, length: int, model) -> np.ndarray:
    """The text (length,) of a code, read with a fresh copy of the model that wrote it."""
    decoder, ids = Decoder(code), []
    for _ in range(length):
        ids.append(decoder.get(model.expect()))
        model.see(ids[-1])
    return np.array(ids, np.int32)
