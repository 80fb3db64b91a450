"""Books into parts, symbols and windows.

A book is cut into three contiguous parts (80 / 10 / 10) at blank lines; the vocabulary is learned from the
training parts only. A tokeniser is a list of pieces and a rule that cuts text into them; a chunk that is no
piece is spelled with characters, so every tokeniser can write down every text made of training characters.
Shapes: N symbols, S steps, B windows in a batch, T symbols in a window.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
ESCAPE_BITS = 8.0  # an unseen character is charged its byte on top of the price of UNKNOWN
PARTS = ("train", "val", "test")


def clean(text: str) -> str:
    """One kind of line end, single blanks, no lines of ornaments, at most one blank line in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x1a", "")
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"(?m)^[ *=_-]+$|^ | $", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def split_book(text: str, shares=(0.8, 0.1)) -> dict[str, str]:
    """Three contiguous parts, each cut moved to the next blank line. ValueError: no blank lines for the cuts."""
    cuts = [text.find("\n\n", round(len(text) * share)) for share in (shares[0], sum(shares))]
    if -1 in cuts or cuts[0] == cuts[1]:
        raise ValueError(
            f"{len(text)} characters cannot be cut into three parts at blank lines: use a longer text"
        )
    edges = [0, cuts[0] + 2, cuts[1] + 2, len(text)]
    return {part: text[a:b] for part, a, b in zip(PARTS, edges, edges[1:], strict=False)}


def shared_grams(a: str, b: str | set, n: int = 20) -> float:
    """Share of the n-grams of `a` that occur anywhere in `b` (a text, or the set of its n-grams)."""
    known, count = (
        {b[i : i + n] for i in range(len(b) - n + 1)} if isinstance(b, str) else b,
        len(a) - n + 1,
    )
    return sum(a[i : i + n] in known for i in range(count)) / max(count, 1)


def without_repeats(parts: dict[str, str], limit: float) -> dict[str, str]:
    """Parts that share less than `limit` of a held-out part's 20-grams: paragraphs that repeat most are dropped."""
    kept = dict(parts)
    for part, other in [(a, b) for a in PARTS[1:] for b in PARTS if a != b]:
        known, pieces = (
            {kept[other][i : i + 20] for i in range(len(kept[other]))},
            kept[part].split("\n\n"),
        )
        while shared_grams("\n\n".join(pieces), known) >= limit:
            pieces.remove(max(pieces, key=lambda piece: shared_grams(piece, known)))
        kept[part] = "\n\n".join(pieces)
    return kept


@dataclass(frozen=True)
class Tokeniser:
    """Pieces (piece 0 stands for an unknown character) and the rule that cuts a text into chunks."""

    pieces: tuple[str, ...]
    cut: Callable[[str], list[str]]
    index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "index", {piece: i for i, piece in enumerate(self.pieces)})

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, strict: bool = True) -> np.ndarray:
        """Ids (N,) int32. An unknown character is an error, or id 0 when `strict` is off."""
        ids = []
        for chunk in self.cut(text):
            if chunk in self.index:
                ids.append(self.index[chunk])
            else:
                ids.extend(self.index.get(char, 0) for char in chunk)
        if strict and 0 in ids:
            odd = next(char for char in text if char not in self.index)
            raise ValueError(
                f"the character {odd!r} at position {text.index(odd)} is not in the vocabulary"
            )
        return np.asarray(ids, dtype=np.int32)

    def decode(self, ids) -> str:
        """The text of ids."""
        return "".join(self.pieces[int(i)] for i in ids)


def _pieces(train: str, extra=()) -> tuple[str, ...]:
    chars = sorted(set(train))
    return (UNKNOWN, *chars, *(piece for piece in extra if len(piece) > 1))


def characters(train: str) -> Tokeniser:
    """One piece per character of the training text."""
    return Tokeniser(_pieces(train), list)


def words(train: str, size: int = 2000) -> Tokeniser:
    """The `size` most frequent words as pieces; other words are spelled."""

    def cut(text):
        return re.findall(r"\w+|\W", text)

    frequent = [word for word, _ in Counter(cut(train)).most_common(size)]
    return Tokeniser(_pieces(train, frequent), cut)


def byte_pairs(train: str, merges: int = 256) -> Tokeniser:
    """Byte-pair pieces (Gage 1994; Sennrich et al. 2016): join the most frequent pair, repeat."""
    chars = _pieces(train)
    base, pieces, rules = Tokeniser(chars, list), list(chars), []
    ids = base.encode(train).astype(np.int64)
    for _ in range(merges):
        codes, counts = np.unique(ids[:-1] * 65536 + ids[1:], return_counts=True)
        pair = divmod(int(codes[counts.argmax()]), 65536)
        rules.append((*pair, len(pieces)))
        pieces.append(pieces[pair[0]] + pieces[pair[1]])
        ids = _merge(ids, *rules[-1])

    def cut(text):
        found = base.encode(text, strict=False).astype(np.int64)
        unknown = iter([char for char in text if char not in base.index])
        for rule in rules:
            found = _merge(found, *rule)
        return [pieces[i] if i else next(unknown) for i in found]

    return Tokeniser(tuple(pieces), cut)


def _merge(ids: np.ndarray, left: int, right: int, new: int) -> np.ndarray:
    """Replace every non-overlapping pair, left to right."""
    if len(ids) < 2:
        return ids
    hits = np.flatnonzero((ids[:-1] == left) & (ids[1:] == right))
    if left == right and len(hits):  # in a run of equal symbols take every second pair
        run = np.cumsum(np.concatenate([[True], np.diff(hits) != 1]))
        first = hits[np.searchsorted(run, run)]
        hits = hits[(hits - first) % 2 == 0]
    ids = ids.copy()
    ids[hits] = new
    return np.delete(ids, hits + 1)


@dataclass(frozen=True)
class Corpus:
    """Books in three parts each, and the tokeniser learned from their training parts."""

    parts: dict[str, dict[str, str]]  # book -> part -> text
    tokeniser: Tokeniser

    @property
    def train_text(self) -> str:
        """All training parts in order."""
        return "".join(book["train"] for book in self.parts.values())

    def ids(self, book: str, part: str) -> np.ndarray:
        """Ids of a part; unseen characters are 0."""
        return self.tokeniser.encode(self.parts[book][part], strict=False)

    def before(self, book: str, part: str) -> np.ndarray:
        """Everything of the book that lies before the part (context for the part's first symbols)."""
        earlier = PARTS[: PARTS.index(part)]
        return np.concatenate([self.ids(book, p) for p in earlier] or [np.zeros(0, np.int32)])


def load(books: dict[str, str], build=characters, limit: float = 1.01) -> Corpus:
    """Clean and split each book, its parts `without_repeats`; learn the tokeniser from the training parts."""
    parts = {name: without_repeats(split_book(clean(text)), limit) for name, text in books.items()}
    return Corpus(parts, build("".join(book["train"] for book in parts.values())))


def batches(streams, steps: int, batch: int, length: int, seed: int) -> np.ndarray:
    """Windows (S, B, T+1) int32: in every pass a new random phase, windows side by side, shuffled.

    `streams` are id arrays; a window never crosses from one to the next.
    """
    rng, rows, needed = np.random.default_rng(seed), [], steps * batch
    if min(len(s) for s in streams) < 2 * length + 2:
        raise ValueError(
            f"a training text needs {2 * length + 2} symbols or more for windows of {length}"
        )
    while needed > 0:
        phase = int(rng.integers(length))
        starts = [(s, i) for s in streams for i in range(phase, len(s) - length, length)]
        order = rng.permutation(len(starts))[:needed]
        rows += [starts[k][0][starts[k][1] : starts[k][1] + length + 1] for k in order]
        needed -= len(order)
    return np.stack(rows).reshape(steps, batch, length + 1)  # (S, B, T+1)


def announced_tokens(texts: list[str], limit: int | None = 500_000) -> list[str]:
    """Lower-cased words of the texts in order, curly quotes and dashes dropped, cut at `limit` characters."""
    joined = "\n".join(texts)[:limit].lower()
    return re.sub("[\u2018\u2019\u201c\u201d\u2013\u2014]", "", joined).split()


def announced_parts(
    tokens: list[str], share: float = 0.1, size: int = 5000
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the first 1 - share and the last share; the vocabulary counts both parts, as announced."""
    frequent = [word for word, _ in Counter(tokens).most_common(size - 4)]
    index = {word: i + 4 for i, word in enumerate(frequent)}
    ids = np.asarray([index.get(word, 1) for word in tokens], dtype=np.int32)
    edge = round(len(ids) * (1 - share))
    return ids[:edge], ids[edge:]
