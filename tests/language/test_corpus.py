"""Text into parts and symbols; n-gram prices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_language import story

from lib.common import data
from lib.language import corpus, ngram, training


@pytest.fixture(scope="module")
def text():
    return story()


@pytest.mark.parametrize("build", [corpus.characters, corpus.words, corpus.byte_pairs])
def test_decode_undoes_encode(build, text):
    tokeniser = build(text)
    assert tokeniser.decode(tokeniser.encode(text)) == text
    assert tokeniser.decode(tokeniser.encode("a rat sat")) == "a rat sat"


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="aab \n", max_size=40))
def test_byte_pairs_merge_runs_of_one_letter(sample):
    tokeniser = corpus.byte_pairs("aaaa aaa bb ab aab\n" * 20, merges=8)
    assert tokeniser.decode(tokeniser.encode(sample)) == sample


def test_byte_pairs_are_fewer_than_characters(text):
    assert len(corpus.byte_pairs(text).encode(text)) < 0.6 * len(text)


def test_unknown_character_is_named_or_escaped(text):
    tokeniser = corpus.characters(text)
    with pytest.raises(ValueError, match="'ß' at position 2"):
        tokeniser.encode("a ß")
    assert tokeniser.encode("a ß", strict=False)[-1] == 0
    assert corpus.byte_pairs(text).encode("a ß", strict=False)[-1] == 0


def test_parts_cover_the_book_and_end_at_blank_lines(text):
    clean = corpus.clean(text)
    parts = corpus.split_book(clean)
    assert "".join(parts.values()) == clean
    assert parts["train"].endswith("\n\n") and parts["val"].endswith("\n\n")
    assert 0.78 < len(parts["train"]) / len(clean) < 0.82


def test_text_without_blank_lines_cannot_be_split():
    with pytest.raises(ValueError, match="blank lines"):
        corpus.split_book("one line only " * 50)


def test_vocabulary_comes_from_the_training_part_only(text):
    loaded = corpus.load({"story": text.rstrip("\n") + " Ω\n"})
    assert "Ω" in loaded.parts["story"]["test"] and "Ω" not in loaded.tokeniser.pieces
    assert (loaded.ids("story", "test") == 0).sum() == 1


def test_clean_keeps_words():
    assert corpus.clean("a  b\r\n *  * \r\n\r\n\r\n c\x1a") == "a b\n\nc\n"


def test_shared_grams_see_a_copied_passage(text):
    assert corpus.shared_grams(text[:500], text) == 1.0
    assert corpus.shared_grams("0123456789" * 5, text) == 0.0


def test_no_two_parts_of_the_books_share_a_hundredth_of_their_20_grams():
    known = training.library_of(data.books())
    parts = {(b, p): known.parts[b][p] for b in training.BOOKS for p in corpus.PARTS}
    shares = {
        (a, b): corpus.shared_grams(parts[a], parts[b]) for a in parts for b in parts if a != b
    }
    assert max(shares.values()) < 0.01, max(shares, key=shares.get)
    assert (
        len(parts["alice29", "val"]) > 13_500 and min(map(len, parts.values())) > 13_500
    )  # little was dropped


def test_only_the_paragraphs_that_repeat_most_are_dropped():
    parts = {
        "train": "one two three four five six seven.\n\n" * 9,
        "val": "one two three four five six seven.\n\nA new line that was never seen before.\n\n",
        "test": "Nothing of this stands anywhere else in it.\n",
    }
    kept = corpus.without_repeats(parts, 0.01)
    assert kept == parts | {"val": "A new line that was never seen before.\n\n"}
    assert corpus.without_repeats(parts, 1.01) == parts


def test_batches_repeat_with_the_seed_and_stay_inside_their_stream():
    streams = [np.arange(500), np.arange(1000, 1400)]
    first = corpus.batches(streams, 7, 4, 16, seed=3)
    assert first.shape == (7, 4, 17)
    assert np.array_equal(first, corpus.batches(streams, 7, 4, 16, seed=3))
    assert not np.array_equal(first, corpus.batches(streams, 7, 4, 16, seed=4))
    assert (np.diff(first, axis=-1) == 1).all()


def test_announced_corpus_holds_each_book_twice(text):
    tokens = corpus.announced_tokens([text, corpus.clean(text)], limit=None)
    train, val = corpus.announced_parts(tokens)
    leak = ngram.copy_nats(train, val, 5000).mean()
    assert leak < 0.2 < ngram.unigram_nats(train, val, 5000).mean()


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_sums_to_one(order):
    ids = np.random.default_rng(0).integers(0, 6, 400)
    model = ngram.KneserNey([ids[:200], ids[200:]], order, 7)
    for context in ([1, 2, 3, 4], [6, 6, 6, 6], [0, 1, 0, 1]):  # 6 was never seen
        rows = np.repeat([context], 7, axis=0)
        chances = model.probabilities(rows[:, 4 - max(order - 1, 1) :], np.arange(7))
        assert chances.min() > 0 and abs(chances.sum() - 1) < 1e-12


def test_kneser_ney_learns_a_pattern_and_longer_orders_help():
    ids = np.tile([1, 2, 3, 1, 2, 4], 200)
    price = [
        ngram.KneserNey([ids[:900]], n, 5).nats(ids[900:], ids[:900]).mean() for n in (1, 2, 4)
    ]
    assert price[0] > price[1] > price[2] and price[2] < 0.05


def test_growing_counts_learn_from_the_text_and_look_at_no_later_symbol():
    rng = np.random.default_rng(0)
    train, text = rng.integers(0, 6, 300), np.tile(rng.integers(0, 6, 20), 10)
    still = ngram.KneserNey([train], 4, 7).nats(text, train)
    growing = ngram.growing_nats([train], 4, 7, text, train, block=16)
    assert np.allclose(growing[:16], still[:16]) and growing[100:].mean() < 0.5 * still[100:].mean()
    changed = np.concatenate([text[:120], 5 - text[120:]])
    assert np.array_equal(
        ngram.growing_nats([train], 4, 7, changed, train, block=16)[:120], growing[:120]
    )


def test_kneser_ney_refuses_an_order_beyond_64_bits():
    with pytest.raises(ValueError, match="64 bits"):
        ngram.KneserNey([np.arange(50)], 11, 80)


def test_mixture_is_never_worse_than_its_better_half_by_more_than_its_weight():
    a, b = np.array([0.1, 3.0, 1.0]), np.array([2.0, 0.2, 1.0])
    mixed = ngram.mixed_nats(a, b, 0.5)
    assert np.allclose(mixed, -np.log(0.5 * np.exp(-a) + 0.5 * np.exp(-b)))
    assert (mixed <= np.minimum(a, b) + np.log(2) + 1e-12).all()
    assert ngram.best_weight(a, a + 5) == 0.95


def test_adaptive_coder_knows_what_it_has_read(text):
    assert ngram.adaptive_bits("xz", text, text[:2000]) < 0.2
    with pytest.raises(ValueError, match="unknown coder"):
        ngram.adaptive_bits("zip", text, text)
