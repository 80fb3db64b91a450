"""Properties of lib/language for any input: tokenisers lose nothing, the cache equals the full pass."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_language import story

from lib.language import causal, corpus
from lib.language.symbols import Config

tf = pytest.importorskip("tensorflow")
TEXT = story(lines=120)
BUILDS = {
    build.__name__: build(TEXT) for build in (corpus.characters, corpus.words, corpus.byte_pairs)
}
KNOWN = st.text(alphabet=sorted(set(TEXT)), max_size=80)
CONFIG = Config(11, width=8, layers=1, heads=2, hidden=16, context=6, grams=((2, 31),))


@pytest.mark.parametrize("build", BUILDS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=KNOWN)
def test_decode_undoes_encode(build, text):
    tokeniser = BUILDS[build]
    ids = tokeniser.encode(text)
    assert tokeniser.decode(ids) == text
    assert ids.size == 0 or (0 < ids.min() and ids.max() < len(tokeniser))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(max_size=40))
def test_a_character_outside_the_vocabulary_is_never_passed_over(text):
    known, tokeniser = set(TEXT), BUILDS["characters"]
    if set(text) <= known:
        assert tokeniser.decode(tokeniser.encode(text)) == text
        return
    odd = next(char for char in text if char not in known)
    with pytest.raises(ValueError, match="is not in the vocabulary") as caught:
        tokeniser.encode(text)
    assert repr(odd) in str(caught.value)
    assert (tokeniser.encode(text, strict=False) == 0).sum() == sum(
        char not in known for char in text
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1), project=st.booleans(), residual=st.booleans())
def test_the_cache_equals_the_full_forward_pass(seed, project, residual):
    config, rng = (
        dataclasses.replace(CONFIG, project=project, residual=residual),
        np.random.default_rng(seed),
    )
    params = {
        name: (a + 0.1 * rng.standard_normal(a.shape)).astype(float)
        for name, a in causal.init(config).items()
    }
    generator = causal.Generator(params, config)
    ids = rng.integers(1, config.vocab, config.context).astype(np.int32)
    full = causal.logits(generator.params, tf.constant(ids[None]), config).numpy()[0]
    padded = np.concatenate([[0], ids]).astype(np.int32)
    for t in range(config.context):
        now = generator.step(tf.constant(padded[t : t + 2]), tf.constant(t)).numpy()
        np.testing.assert_allclose(now, full[t], atol=1e-9)
