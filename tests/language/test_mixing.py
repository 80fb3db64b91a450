"""The mixer and the arithmetic code: nothing is known before it is priced, and the price is what a code takes."""

import numpy as np
import pytest

from lib.common import data
from lib.language import causal, coding, contexts, corpus, mixing, ngram, reading, training
from lib.language.symbols import Config


@pytest.fixture(scope="module")
def library():
    return training.library_of(data.books())


@pytest.fixture(scope="module")
def texts(library):
    """Ids of a training text, a text to price, and static rows of one network: the symbols' frequencies."""
    train = library.ids("alice29", "train")[:30_000]
    ids = library.ids("alice29", "val")[:1500]
    counts = np.bincount(train, minlength=len(library.tokeniser)) + 1.0
    row = np.log(counts / counts.sum()).astype(np.float32)
    return train, ids, np.broadcast_to(row, (1, len(ids), len(row)))


def mixer_of(library, train, networks=1, room=2000):
    return mixing.Mixer(library.tokeniser.pieces, [train], networks, room)


def test_prices_of_a_prefix_do_not_change_when_the_rest_changes(library, texts):
    train, ids, rows = texts
    changed, cut = ids.copy(), 700
    changed[cut:] = ids[cut:][::-1]
    prices = mixer_of(library, train).price(ids, rows)
    others = mixer_of(library, train).price(changed, rows)
    assert np.array_equal(prices[:cut], others[:cut])
    assert (prices[cut:] != others[cut:]).mean() > 0.9


def test_probabilities_sum_to_one_and_give_the_price(library, texts):
    train, ids, rows = texts
    prices = mixer_of(library, train).price(ids[:300], rows[:, :300])
    mixer = mixer_of(library, train)
    for place in range(300):
        chances = mixer.expect(rows[:, place])
        assert abs(chances.sum() - 1) < 1e-9
        assert chances.min() > 0
        assert -np.log(chances[ids[place]]) == pytest.approx(prices[place], rel=1e-12)
        mixer.see(int(ids[place]))


def test_mixing_is_far_better_than_its_network_and_than_counts(library, texts):
    train, ids, rows = texts
    size = len(library.tokeniser)
    mixed = mixer_of(library, train).price(ids, rows).mean()
    counted = ngram.KneserNey([train], 6, size).nats(ids, train).mean()
    alone = -rows[0, np.arange(len(ids)), ids].mean()
    assert mixed < counted - 0.05 < alone


def test_order_three_is_kneser_ney(library, texts):
    """The online counts with exclusion are the continuation counts of the offline model."""
    train, _, _ = texts
    size = len(library.tokeniser)
    offline = ngram.KneserNey([train], 8, size)
    offline.levels = offline.levels[:4]
    offline.order = 4
    mixer = mixer_of(library, train)
    every = np.arange(size)
    expected = offline.probabilities(np.tile(train[-3:], (size, 1)), every)
    mixer.expect(np.zeros((1, size)))
    base = mixer.memory.chances[0]
    assert base.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(base / expected - 1).max() < 0.02  # the paddings of the first places differ


def test_weights_learn_that_a_network_is_useless(library, texts):
    train, ids, rows = texts
    noise = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    noise -= np.log(np.exp(noise).sum(-1, keepdims=True))
    both = np.concatenate([noise, rows])
    mixer = mixer_of(library, train, networks=2)
    first = mixer.price(ids, both)
    mixer.restart()
    second = mixer.price(ids, both)  # the same text, with weights that know it
    assert second.mean() < first.mean() - 0.05
    rest = mixer_of(library, train, networks=1)
    assert abs(rest.price(ids, rows)[500:].mean() - first[500:].mean()) < 0.1


def test_a_restart_forgets_the_text_but_not_the_training_texts(library, texts):
    train, ids, rows = texts
    mixer = mixer_of(library, train)
    fresh = mixing.copy_weights(mixer.weights)
    first = mixer.price(ids[:400], rows[:, :400])
    for _ in range(2):
        mixer.restart()
        mixer.weights = mixing.copy_weights(fresh)
        assert np.array_equal(mixer.price(ids[:400], rows[:, :400]), first)


CONTEXT_TEXT = "Alice was beginning\nto get very tired of sitting by her sister"


def codes_of(text, pieces):
    alphabet = contexts.alphabet_of(pieces)
    ids = np.array([pieces.index(char) for char in text] + [0] * 5, np.int32)
    codes = np.zeros(len(contexts.NAMES), np.int64)
    contexts.fill_codes(ids, len(text), alphabet, codes)
    return dict(zip(contexts.NAMES, codes.tolist(), strict=True))


def test_contexts_see_what_their_names_say():
    pieces = ("\N{REPLACEMENT CHARACTER}", *sorted(set(CONTEXT_TEXT + "XHw")))
    base = codes_of("to sit by her", pieces)
    other_case = codes_of("to sit by Her", pieces)
    assert base["word"] == other_case["word"]
    assert base["last 3"] != other_case["last 3"]
    assert base["last 2"] == other_case["last 2"]
    far = codes_of("we sit by her", pieces)
    assert base["2 words before"] == far["2 words before"]
    assert base["1 word before"] != codes_of("to sit at her", pieces)["1 word before"]
    assert base["column"] == far["column"] != codes_of("to sit by  her", pieces)["column"]
    assert base["1st, 3rd, 4th"] == codes_of("to sit by hXr", pieces)["1st, 3rd, 4th"]
    above = codes_of("Alice\nto g", pieces)["symbol above"]
    assert above == codes_of("Xlice\nto g", pieces)["symbol above"]
    assert above != codes_of("AlicX\nto g", pieces)["symbol above"]


def test_contexts_do_not_see_what_comes_next():
    pieces = ("\N{REPLACEMENT CHARACTER}", *sorted(set(CONTEXT_TEXT)))
    alphabet = contexts.alphabet_of(pieces)
    ids = np.array([pieces.index(char) for char in CONTEXT_TEXT], np.int32)
    found = np.zeros((2, len(contexts.NAMES)), np.int64)
    for place in (0, 1, 5, 19, 20, 31, 50):
        changed = ids.copy()
        changed[place:] = 1
        contexts.fill_codes(ids, place, alphabet, found[0])
        contexts.fill_codes(changed, place, alphabet, found[1])
        assert np.array_equal(found[0], found[1]), place


def test_the_longest_match_expects_what_followed_it(library):
    ids = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7], np.int32)
    match = mixing.empty_match()
    for t in range(1, len(ids) + 1):
        mixing.follow_match(match, ids, t)
    assert ids[match.place[0]] == 8
    assert match.length[0] == 7
    assert match.place[1] == mixing.EMPTY  # twelve symbols were never repeated


class Frequencies:
    """A model for the coder: fixed probabilities."""

    def __init__(self, chances):
        self.chances = np.array(chances)

    def expect(self):
        return self.chances

    def see(self, symbol):
        pass


@pytest.mark.parametrize(
    "chances", [[0.5, 0.5], [1e-7, 1 - 1e-7], [0.2, 0.3, 0.5], np.full(73, 1 / 73)]
)
def test_a_code_decodes_and_is_as_long_as_its_price(chances):
    rng = np.random.default_rng(0)
    ids = rng.choice(len(chances), size=4000, p=chances)
    ids[:2] = 0  # even what hardly ever comes can be written
    code = coding.encode(ids, Frequencies(chances))
    assert np.array_equal(coding.decode(code, len(ids), Frequencies(chances)), ids)
    bits = -np.log2(np.array(chances)[ids]).sum()
    assert -8 <= 8 * len(code) - bits <= 64


def test_some_kilobytes_go_through_mixer_and_code(library, texts):
    train, _, rows = texts
    ids = library.ids("alice29", "val")[:4000]
    row = rows[0, 0]

    def model():
        mixer = mixer_of(library, train, room=5000)
        expect = mixer.expect
        mixer.expect = lambda: expect(row[None])
        return mixer

    code = coding.encode(ids, model())
    assert np.array_equal(coding.decode(code, len(ids), model()), ids)
    repeated = np.broadcast_to(row, (1, len(ids), len(row)))
    price = mixer_of(library, train, room=5000).price(ids, repeated).sum() / np.log(2) / 8
    assert abs(len(code) - price) <= 8


TINY = Config(73, width=16, layers=1, heads=2, hidden=32, context=24, grams=((2, 31),))


def test_one_symbol_at_a_time_prices_like_the_whole_text(library, texts):
    train, ids, _ = texts
    arrays = {name: 20 * a for name, a in causal.init(TINY).items()}
    windows = corpus.batches([train], 5, 1, TINY.context, 0)[:, 0]
    before, ids = train[-64:], ids[:48]

    def adaptive():
        return reading.AdaptiveReader(arrays, TINY, windows, rate=1e-2, stride=8)

    static = reading.static_rows(arrays, TINY, ids, before, stride=8)
    moving = adaptive().rows(ids, before)
    assert np.abs(np.exp(static).sum(-1) - 1).max() < 1e-5
    assert np.abs(static[:8] - moving[:8]).max() < 1e-5  # nothing has been learned yet
    assert np.abs(static[8:] - moving[8:]).max() > 1e-3
    mixer = mixer_of(library, train, networks=2)
    model = reading.OneByOne(adaptive(), mixer_of(library, train, networks=2), before)
    prices = mixer.price(ids, np.stack([static, moving]))
    for symbol, price in zip(ids, prices, strict=True):
        assert -np.log(model.expect()[symbol]) == pytest.approx(price, abs=1e-3)
        model.see(int(symbol))


def test_adaptive_rows_of_a_prefix_do_not_change_when_the_rest_changes(texts):
    train, ids, _ = texts
    arrays = {name: 20 * a for name, a in causal.init(TINY).items()}
    windows = corpus.batches([train], 5, 1, TINY.context, 0)[:, 0]
    reader = reading.AdaptiveReader(arrays, TINY, windows, rate=1e-2, stride=8)
    changed = ids[:64].copy()
    changed[30:] = changed[30:][::-1]
    first, second = reader.rows(ids[:64], train), reader.rows(changed, train)
    assert np.array_equal(first[:31], second[:31])
    assert (first[40:] != second[40:]).any()
