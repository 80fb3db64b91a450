"""Many small predictors mixed in the logarithmic domain, with weights that learn while the text is read.

The idea is that of PAQ (Mahoney 2005; Mattern 2012), here over whole symbols instead of bits: the probability of
symbol x is proportional to exp(sum_i w_i f_i(x)). The features f_i are log-probabilities of networks, and of each
context how much more likely it makes x than a shorter context did: an online Kneser-Ney model of growing order
(counts of lower orders grow only where the higher order met something new), words, columns and sparse contexts, what
came lately, and the continuation of the longest match. A weight w_i is a sum over sets; in each set the situation
picks one entry, so the mixer trusts a context of twenty counts otherwise than one of a single count.
Nothing here knows a symbol before it has priced it: `expect` gives the probabilities, then `see` learns.

Shapes: K kinds of contexts, V symbols, M networks, F features, N symbols of a text.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from lib.language.contexts import NAMES, ORDERS, Alphabet, alphabet_of, fill_codes

BASE = ORDERS.index(3)  # words and sparse contexts are compared with what order 3 expects
RECENT = (1, 2, 3, 4)  # indices of orders that also have counts that fade
FADE = 0.97  # of a count, at every visit of its context
RECENT_PRIOR = 1.0  # counts of order 3 that stand against what came lately
PLAIN_DISCOUNT = 0.75  # of the contexts that are no orders
MATCHES = (6, 12)  # shortest matches that the two match predictors accept
LONGEST_MATCH = 32
RATE = 0.02  # of AdaGrad; chosen on the validation parts (0.03 is 0.002 bpc worse)
FLOOR = 1e-6  # share of the uniform distribution in the result, so that nothing is impossible
CONFIDENCE, KINDS, PLACES = 16, 5, 8  # entries of three sets
EMPTY = -1


# --- counts ----------------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """What followed each context. A row is a context, an entry a symbol that followed it; entries of a row are linked."""

    slots: np.ndarray  # (power of two,) hash table: the row, or EMPTY
    key: np.ndarray  # (rows,) the context
    first: np.ndarray  # (rows,) its newest entry
    total: np.ndarray  # (rows,) sum of its counts
    distinct: np.ndarray  # (rows,) its entries with a count
    ones: np.ndarray  # (rows,) of these with count 1
    twos: np.ndarray  # (rows,) with count 2
    visits: np.ndarray  # (rows,) how often the context came
    recent: np.ndarray  # (rows,) sum of its fading counts
    symbol: np.ndarray  # (entries,)
    count: np.ndarray  # (entries,)
    fading: np.ndarray  # (entries,) the fading count after visit `stamp`
    stamp: np.ndarray  # (entries,)
    following: np.ndarray  # (entries,) the next entry of the row, or EMPTY
    used: np.ndarray  # (2,) rows and entries in use
    tally: np.ndarray  # (K, 6) how many entries have count 1, 2, 3, 4 (columns of that number)


def empty_counts(symbols: int) -> Counts:
    """Room for a text of so many symbols."""
    most = len(NAMES) * symbols + 1
    slots = np.full(1 << int(np.ceil(np.log2(1.5 * most))), EMPTY, np.int32)

    def zeros(kind):
        return np.zeros(most, kind)

    rows = {name: zeros(np.int32) for name in ("total", "distinct", "ones", "twos", "visits")}
    entries = {name: zeros(np.int32) for name in ("count", "stamp", "following")}
    return Counts(
        slots=slots,
        key=zeros(np.int64),
        first=zeros(np.int32),
        recent=zeros(np.float64),
        symbol=zeros(np.int16),
        fading=zeros(np.float64),
        used=np.zeros(2, np.int64),
        tally=np.zeros((len(NAMES), 6), np.int64),
        **rows,
        **entries,
    )


def copy_counts(counts: Counts) -> Counts:
    """The same counts in arrays of their own; room that is not in use costs nothing."""
    in_use = counts.used.max()  # rows and entries have the same room
    copies = []
    for array in counts:
        end = in_use if len(array) == len(counts.key) else len(array)
        copy = np.zeros_like(array)
        copy[:end] = array[:end]
        copies.append(copy)
    return Counts(*copies)


@njit(cache=True)
def slot_of(counts, key):
    """The slot that holds the row of this key, or the empty slot where it belongs."""
    mask = len(counts.slots) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(24)) & mask
    while counts.slots[slot] != EMPTY and counts.key[counts.slots[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True)
def row_of(counts, key):
    """The row of a context, made when it is new."""
    slot = slot_of(counts, key)
    if counts.slots[slot] == EMPTY:
        row = counts.used[0]
        counts.used[0] += 1
        counts.slots[slot] = row
        counts.key[row] = key
        counts.first[row] = EMPTY
    return counts.slots[slot]


@njit(cache=True)
def entry_of(counts, row, symbol):
    """The entry of a symbol in a row, made when it is new; it moves to the front, where the next search begins."""
    before, entry = EMPTY, counts.first[row]
    while entry != EMPTY and counts.symbol[entry] != symbol:
        before, entry = entry, counts.following[entry]
    if entry == EMPTY:
        entry = counts.used[1]
        counts.used[1] += 1
        counts.symbol[entry] = symbol
    elif before == EMPTY:
        return entry
    else:
        counts.following[before] = counts.following[entry]
    counts.following[entry] = counts.first[row]
    counts.first[row] = entry
    return entry


@njit(cache=True)
def add_count(counts, kind, row, entry):
    """One more of a symbol: its count, and what the row knows of its counts."""
    before = counts.count[entry]
    counts.count[entry] = before + 1
    counts.total[row] += 1
    counts.distinct[row] += before == 0
    counts.ones[row] += (before == 0) - (before == 1)
    counts.twos[row] += (before == 1) - (before == 2)
    counts.tally[kind, min(before, 5)] -= 1
    counts.tally[kind, min(before + 1, 5)] += 1


@njit(cache=True)
def add_fading(counts, row, entry):
    """The same for the counts that fade."""
    age = counts.visits[row] - counts.stamp[entry]
    counts.fading[entry] = counts.fading[entry] * FADE ** (age + 1) + 1
    counts.recent[row] = counts.recent[row] * FADE + 1
    counts.visits[row] += 1
    counts.stamp[entry] = counts.visits[row]


@njit(cache=True)
def count_symbol(counts, codes, symbol):
    """Count a symbol behind all its contexts; an order is counted only if no longer one has met the symbol here."""
    new = True
    for kind in range(len(ORDERS) - 1, -1, -1):
        row = row_of(counts, codes[kind] * 64 + kind)
        entry = entry_of(counts, row, symbol)
        known = counts.count[entry] > 0
        if new:
            add_count(counts, kind, row, entry)
        new = new and not known
        add_fading(counts, row, entry)
    for kind in range(len(ORDERS), len(codes)):
        row = row_of(counts, codes[kind] * 64 + kind)
        add_count(counts, kind, row, entry_of(counts, row, symbol))


def discounts_of(counts: Counts) -> np.ndarray:
    """Discounts D(1), D(2), D(3+) of each order (Chen and Goodman 1999, equation 26), kept inside (0, count)."""
    found = np.zeros((len(ORDERS), 3))
    for kind in range(len(ORDERS)):
        number = np.maximum(counts.tally[kind], 1)  # of entries with count 1, 2, 3, 4
        scale = number[1] / (number[1] + 2 * number[2])
        for c in (1, 2, 3):
            raw = c - (c + 1) * scale * number[c + 1] / number[c]
            found[kind, c - 1] = min(max(raw, 0.05), c - 0.05)
    return found


# --- the longest match -----------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """Where the past was like the present: one row for each of MATCHES."""

    last: np.ndarray  # (2, table) place behind the last occurrence of a hash, or EMPTY
    place: np.ndarray  # (2,) place of the symbol that the match expects, or EMPTY
    length: np.ndarray  # (2,) symbols that agree


def empty_match() -> Match:
    """No text has been read."""
    tables = np.full((len(MATCHES), 1 << 20), EMPTY, np.int32)
    return Match(tables, np.full(len(MATCHES), EMPTY), np.zeros(len(MATCHES), np.int64))


@njit(cache=True)
def matching_length(ids, place, t):
    """How many symbols before `place` equal those before t."""
    length = 0
    while (
        length < LONGEST_MATCH and place > length and ids[place - 1 - length] == ids[t - 1 - length]
    ):
        length += 1
    return length


@njit(cache=True)
def follow_match(match, ids, t):
    """Go on after ids[t - 1] has been read: prolong the match, or look for a new one."""
    for i in range(len(MATCHES)):
        if match.place[i] != EMPTY:
            if ids[match.place[i]] == ids[t - 1]:
                match.place[i] += 1
                match.length[i] += 1
            else:
                match.place[i] = EMPTY
        if t < MATCHES[i]:
            continue
        code = np.int64(0)
        for distance in range(1, MATCHES[i] + 1):
            code = code * 31_337 + ids[t - distance] + 1
        slot = (code ^ (code >> 20) ^ (code >> 40)) & (match.last.shape[1] - 1)
        if match.place[i] == EMPTY and match.last[i, slot] != EMPTY:
            length = matching_length(ids, match.last[i, slot], t)
            if length >= MATCHES[i]:
                match.place[i] = match.last[i, slot]
                match.length[i] = length
        match.last[i, slot] = t


# --- features --------------------------------------------------------------------------------------------------------


@njit(cache=True)
def confidence(total, distinct):
    """Entry 1 to 15 of the first set: how many counts a context has, and whether they agree."""
    amount = 1 + (total >= 2) + (total >= 3) + (total >= 6) + (total >= 16)
    return amount + 5 * (distinct == 1) + 10 * (distinct > 4)


@njit(cache=True)
def order_features(counts, codes, discounts, features, trust, chances):
    """Kneser-Ney order by order: log of the change that each longer context makes. Returns how many were seen.

    `chances` (2, V) receives the distribution of order 3 and that of the longest order.
    """
    base, running = chances
    symbols = features.shape[1]
    running[:] = 1.0 / symbols
    seen = 0
    for kind in range(len(ORDERS)):
        row = counts.slots[slot_of(counts, codes[kind] * 64 + kind)]
        if row == EMPTY or counts.total[row] == 0:
            features[kind] = 0.0
            trust[kind] = 0
        else:
            seen += 1
            total, ones, twos = counts.total[row], counts.ones[row], counts.twos[row]
            more = counts.distinct[row] - ones - twos
            spare = (
                ones * discounts[kind, 0] + twos * discounts[kind, 1] + more * discounts[kind, 2]
            )
            share = spare / total
            features[kind] = np.log(share)
            running *= share
            entry = counts.first[row]
            while entry != EMPTY:
                count, symbol = counts.count[entry], counts.symbol[entry]
                if count > 0:
                    shorter = running[symbol] / share
                    running[symbol] += (count - discounts[kind, min(count, 3) - 1]) / total
                    features[kind, symbol] = np.log(running[symbol] / shorter)
                entry = counts.following[entry]
            trust[kind] = confidence(total, counts.distinct[row])
        if kind == 0:
            features[kind] = np.log(running)
        if kind == BASE:
            base[:] = running
    return seen


@njit(cache=True)
def context_features(counts, codes, features, trust, base):
    """The other contexts, each against order 3."""
    for kind in range(len(ORDERS), len(codes)):
        row = counts.slots[slot_of(counts, codes[kind] * 64 + kind)]
        if row == EMPTY:
            features[kind] = 0.0
            trust[kind] = 0
            continue
        total, distinct = counts.total[row], counts.distinct[row]
        share = PLAIN_DISCOUNT * distinct / total
        features[kind] = np.log(share)
        entry = counts.first[row]
        while entry != EMPTY:
            symbol = counts.symbol[entry]
            kept = (counts.count[entry] - PLAIN_DISCOUNT) / total
            features[kind, symbol] = np.log(share + kept / base[symbol])
            entry = counts.following[entry]
        trust[kind] = confidence(total, distinct)


@njit(cache=True)
def recent_features(counts, codes, features, trust, base):
    """What came lately behind the last one to four symbols, against order 3."""
    for i in range(len(RECENT)):
        kind = RECENT[i]
        row = counts.slots[slot_of(counts, codes[kind] * 64 + kind)]
        if row == EMPTY:
            features[i] = 0.0
            trust[i] = 0
            continue
        total = counts.recent[row]
        features[i] = np.log(RECENT_PRIOR / (total + RECENT_PRIOR))
        entry = counts.first[row]
        while entry != EMPTY:
            age = counts.visits[row] - counts.stamp[entry]
            amount = counts.fading[entry] * FADE**age
            symbol = counts.symbol[entry]
            gain = (amount / base[symbol] + RECENT_PRIOR) / (total + RECENT_PRIOR)
            features[i, symbol] = np.log(gain)
            entry = counts.following[entry]
        trust[i] = 1 + (total >= 0.3) + (total >= 1) + (total >= 2) + (total >= 4)


@njit(cache=True)
def match_features(match, ids, features, trust):
    """One for the symbol that followed the longest match; how far to trust it depends on the length."""
    for i in range(len(MATCHES)):
        features[i] = 0.0
        trust[i] = 0
        if match.place[i] != EMPTY:
            features[i, ids[match.place[i]]] = 1.0
            length = match.length[i]
            trust[i] = (
                min(length, 15) // 2 + 1 if length < 16 else 9 + (length >= 20) + (length >= 28)
            )


# --- mixing ----------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Weights of all features in all entries of the sets, and the sums of squares that AdaGrad divides by."""

    value: np.ndarray  # (F, entries)
    squares: np.ndarray  # (F, entries)


def fresh_weights(networks: int, symbols: int) -> Weights:
    """The mean of the networks at 0.7 and the Kneser-Ney model at 0.3, everything else at 0."""
    features = networks + len(NAMES) + len(RECENT) + len(MATCHES)
    entries = CONFIDENCE + KINDS + PLACES + len(ORDERS) + 1 + symbols
    value = np.zeros((features, entries))
    value[:networks, :CONFIDENCE] = 0.7 / networks
    value[networks : networks + len(ORDERS), :CONFIDENCE] = 0.3
    return Weights(value, np.ones((features, entries)))


def copy_weights(weights: Weights) -> Weights:
    """The same weights in arrays of their own."""
    return Weights(weights.value.copy(), weights.squares.copy())


@njit(cache=True)
def situation(ids, t, alphabet, seen, likeliest, sets):
    """The entry of each set but the first: last symbol's kind, place in the word, orders seen, likeliest symbol."""
    place = 0
    while place < PLACES - 1 and place < t and alphabet.letter[ids[t - 1 - place]] > 0:
        place += 1
    start = CONFIDENCE
    sets[0] = start + (alphabet.kind[ids[t - 1]] if t > 0 else 4)
    start += KINDS
    sets[1] = start + place
    start += PLACES
    sets[2] = start + seen
    start += len(ORDERS) + 1
    sets[3] = start + likeliest


@njit(cache=True)
def weight_of(weights, feature, own, sets):
    """The weight of a feature: its own confidence and the common situation."""
    total = weights.value[feature, own]
    for entry in sets:
        total += weights.value[feature, entry]
    return total


@njit(cache=True)
def mix(weights, features, trust, sets, result):
    """Probabilities (V,): the softmax of the weighted sum of the features (F, V)."""
    result[:] = 0.0
    for i in range(len(features)):
        result += weight_of(weights, i, trust[i], sets) * features[i]
    result -= result.max()
    result[:] = np.exp(result)
    result /= result.sum()


@njit(cache=True)
def move(weights, feature, entry, slope):
    """One step of AdaGrad (Duchi et al. 2011) on one weight."""
    weights.squares[feature, entry] += slope * slope
    step = RATE / (np.sqrt(weights.squares[feature, entry]) + 1e-3)
    weights.value[feature, entry] += step * slope


@njit(cache=True)
def learn(weights, features, trust, sets, result, symbol):
    """Move the weights towards what would have made `symbol` cheaper: slope = feature of it - expected feature."""
    for i in range(len(features)):
        slope = features[i, symbol] - np.dot(result, features[i])
        move(weights, i, trust[i], slope)
        for entry in sets:
            move(weights, i, entry, slope)


class Memory(NamedTuple):
    """Everything the mixer has read: the symbols, the counts, the match, and scratch space of one place."""

    ids: np.ndarray  # (room,) symbols so far
    length: np.ndarray  # (1,) how many
    counts: Counts
    match: Match
    discounts: np.ndarray  # (orders, 3)
    alphabet: Alphabet
    codes: np.ndarray  # (K,)
    features: np.ndarray  # (F, V)
    trust: np.ndarray  # (F,) entry of each feature in the first set
    sets: np.ndarray  # (4,) entries of the other sets
    chances: np.ndarray  # (2, V)
    mixed: np.ndarray  # (V,)


@njit(cache=True)
def remember(memory, symbol):
    """Append a symbol that is counted."""
    t = memory.length[0]
    fill_codes(memory.ids, t, memory.alphabet, memory.codes)
    count_symbol(memory.counts, memory.codes, symbol)
    memory.ids[t] = symbol
    memory.length[0] = t + 1
    follow_match(memory.match, memory.ids, t + 1)


@njit(cache=True)
def remember_all(memory, text):
    """Append the symbols of a text (N,), one after the other."""
    for symbol in text:
        remember(memory, symbol)


@njit(cache=True)
def expect(memory, weights, rows):
    """Probabilities of the next symbol, given the networks' log-probabilities (M, V); left in memory.mixed."""
    t = memory.length[0]
    networks, kinds = len(rows), len(memory.codes)
    features, trust, counts = memory.features, memory.trust, memory.counts
    fill_codes(memory.ids, t, memory.alphabet, memory.codes)
    features[:networks] = rows
    own, own_trust = features[networks:], trust[networks:]
    seen = order_features(counts, memory.codes, memory.discounts, own, own_trust, memory.chances)
    base = memory.chances[0]
    context_features(counts, memory.codes, own, own_trust, base)
    recent_features(counts, memory.codes, own[kinds:], own_trust[kinds:], base)
    match_at = kinds + len(RECENT)
    match_features(memory.match, memory.ids, own[match_at:], own_trust[match_at:])
    trust[:networks] = seen
    likeliest = np.argmax(rows[networks - 1])
    situation(memory.ids, t, memory.alphabet, seen, likeliest, memory.sets)
    mix(weights, features, trust, memory.sets, memory.mixed)


@njit(cache=True)
def see(memory, weights, symbol):
    """Learn from the symbol that came: first the weights, then the counts."""
    learn(weights, memory.features, memory.trust, memory.sets, memory.mixed, symbol)
    remember(memory, symbol)


@njit(cache=True)
def price_all(memory, weights, text, rows, nats):
    """Price, then learn, symbol by symbol: rows (M, N, V), nats (N,)."""
    symbols = len(memory.mixed)
    for i in range(len(text)):
        expect(memory, weights, rows[:, i])
        chance = (1 - FLOOR) * memory.mixed[text[i]] + FLOOR / symbols
        nats[i] = -np.log(chance)
        see(memory, weights, text[i])


class Mixer:
    """A mixer that has read training texts and prices what follows.

    Args:
        pieces: the vocabulary, characters.
        training: id streams, counted in this order; the book that is priced stands last, since what came lately
            weighs more.
        networks: how many networks are mixed.
        room: symbols that may follow the training texts.
    """

    def __init__(self, pieces, training, networks: int, room: int):
        symbols = len(pieces)
        length = sum(len(stream) for stream in training)
        features = networks + len(NAMES) + len(RECENT) + len(MATCHES)
        self.weights = fresh_weights(networks, symbols)
        self.memory = Memory(
            ids=np.zeros(length + room, np.int32),
            length=np.zeros(1, np.int64),
            counts=empty_counts(length + room),
            match=empty_match(),
            discounts=np.zeros((len(ORDERS), 3)),
            alphabet=alphabet_of(pieces),
            codes=np.zeros(len(NAMES), np.int64),
            features=np.zeros((features, symbols)),
            trust=np.zeros(features, np.int64),
            sets=np.zeros(4, np.int64),
            chances=np.zeros((2, symbols)),
            mixed=np.zeros(symbols),
        )
        for stream in training:
            remember_all(self.memory, np.asarray(stream, np.int32))
        self.memory.discounts[:] = discounts_of(self.memory.counts)
        self.trained = self._copy()

    def _copy(self) -> tuple:
        match = Match(*(array.copy() for array in self.memory.match))
        return copy_counts(self.memory.counts), match, self.memory.length.copy()

    def restart(self) -> None:
        """Forget what came after the training texts; the weights stay."""
        counts, match, length = self.trained
        self.memory = self.memory._replace(counts=counts, match=match, length=length)
        self.trained = self._copy()

    def expect(self, rows) -> np.ndarray:
        """Probabilities (V,) of the next symbol, given the networks' log-probabilities (M, V)."""
        expect(self.memory, self.weights, np.asarray(rows, np.float32))
        return (1 - FLOOR) * self.memory.mixed + FLOOR / len(self.memory.mixed)

    def see(self, symbol: int) -> None:
        """Learn from the symbol that came, after `expect`."""
        see(self.memory, self.weights, symbol)

    def price(self, ids, rows) -> np.ndarray:
        """Prices in nats (N,) of the text that follows, given log-probabilities (M, N, V) of the networks."""
        nats = np.empty(len(ids))
        rows = np.asarray(rows, np.float32)
        price_all(self.memory, self.weights, np.asarray(ids, np.int32), rows, nats)
        return nats
