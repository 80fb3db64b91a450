"""The training loop, pricing, and the announced model's requirements, on tiny sizes."""

import numpy as np
import pytest
from reference_language import story

from lib.common import params as settings
from lib.common import weights
from lib.language import corpus, ngram, optimiser, training
from lib.language.symbols import Config

tf = pytest.importorskip("tensorflow")
SHIPPED = settings.root() / "models" / "attention_lm.safetensors"
RECIPE = training.Recipe(40, batch=8, adam=5e-3, muon=0.02)


@pytest.fixture(scope="module")
def library():
    return corpus.load({"story": story(lines=400)})


def config_for(library, kind="attention"):
    return Config(len(library.tokeniser), kind, 16, 1, 2, 32, 16, grams=((2, 61),))


def trained(library, kind="attention", recipe=RECIPE, streams=None, **kwargs):
    config = config_for(library, kind)
    params = {n: tf.Variable(a) for n, a in training.network(config).init(config).items()}
    streams = streams or [library.ids("story", "train")]
    windows = corpus.batches(streams, recipe.steps, recipe.batch, config.context, 0)

    def loss_of(arrays, rows, key):
        return tf.reduce_mean(training.nats_of(arrays, rows, config, key))

    losses = training.fit(params, loss_of, recipe, windows, 0, config=config, **kwargs)
    return params, config, losses


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_training_goes_below_the_unigram_level_and_repeats_bit_by_bit(library, kind):
    params, config, losses = trained(library, kind)
    ids, before = library.ids("story", "test"), library.before("story", "test")
    nats = training.prices(params, config, ids, before, stride=8)
    unigram = ngram.unigram_nats(library.ids("story", "train"), ids, config.vocab)
    assert nats.shape == ids.shape and nats.mean() < unigram.mean() - 0.1
    again, _, same = trained(library, kind)
    assert np.array_equal(losses, same)
    assert all(np.array_equal(params[n].numpy(), again[n].numpy()) for n in params)


def test_shuffled_text_stays_at_the_unigram_level(library):
    shuffled = np.random.default_rng(0).permutation(library.ids("story", "train"))
    params, config, _ = trained(library, streams=[shuffled[:-800]])
    unigram = ngram.unigram_nats(shuffled[:-800], shuffled[-800:], config.vocab)
    nats = training.prices(params, config, shuffled[-800:], shuffled[:-800], stride=8)
    assert nats.mean() > unigram.mean() - 0.02


def test_a_stopped_run_goes_on_to_the_same_bits(library, tmp_path):
    whole, _, losses = trained(library)
    path = tmp_path / "state.safetensors"
    copies = {}

    def keep(*arguments):  # the state after 20 steps, as if the run had been killed there
        save(*arguments)
        copies.setdefault("early", path.read_bytes())

    save, weights.save = weights.save, keep
    try:
        trained(library, checkpoint=path, every=20)
    finally:
        weights.save = save
    path.write_bytes(copies["early"])
    resumed, _, rest = trained(library, checkpoint=path, every=20)
    assert np.array_equal(losses, rest)
    assert all(np.array_equal(whole[n].numpy(), resumed[n].numpy()) for n in whole)


def test_averaged_weights_are_the_running_mean_and_survive_a_stop(library, tmp_path):
    recipe = training.replace(RECIPE, steps=10, average=0.5)
    plain = [trained(library, recipe=training.replace(RECIPE, steps=10))[0]]
    mean, _, losses = trained(
        library, recipe=recipe, checkpoint=tmp_path / "state.safetensors", every=5
    )
    stopped = weights.load(tmp_path / "state.safetensors").arrays
    assert {n for n in stopped if n.startswith("mean.")} == {f"mean.{n}" for n in mean}
    for name, value in mean.items():
        assert np.array_equal(stopped[f"mean.{name}"], value.numpy())
        assert np.array_equal(
            stopped[f"param.{name}"], plain[0][name].numpy()
        )  # the training itself is the same
    assert any((mean[n].numpy() != plain[0][n].numpy()).any() for n in mean)
    again, _, same = trained(
        library, recipe=recipe, checkpoint=tmp_path / "state.safetensors", every=5
    )
    assert np.array_equal(losses, same) and all(
        np.array_equal(mean[n].numpy(), again[n].numpy()) for n in mean
    )


@pytest.mark.fault("a checkpoint of another run (TensorFlow)", "one line that says what to do")
def test_a_checkpoint_of_another_run_is_refused(library, tmp_path):
    path = tmp_path / "state.safetensors"
    trained(library, recipe=training.Recipe(4, 4), checkpoint=path, every=2)
    with pytest.raises(settings.UserError, match="another run"):
        trained(library, kind="lstm", recipe=training.Recipe(4, 4), checkpoint=path)


def test_prices_do_not_depend_on_the_stride_beyond_context(library):
    config = config_for(library)
    params = {n: tf.constant(a) for n, a in training.network(config).init(config).items()}
    ids, before = library.ids("story", "val")[:103], library.before("story", "val")
    one = training.prices(params, config, ids, before, stride=1)
    assert one.shape == (103,)
    for stride in (5, 16):
        many = training.prices(params, config, ids, before, stride=stride)
        tops = np.arange(
            stride - 1, 103, stride
        )  # the last symbol of every window has full context
        assert np.abs(many[tops] - one[tops]).max() < 1e-5
    with pytest.raises(ValueError, match="before the text"):
        training.prices(params, config, ids, before[:5])


def test_dynamic_evaluation_prices_before_it_learns(library):
    params, config, _ = trained(library, recipe=training.Recipe(10, 8))
    arrays = {n: v.numpy() for n, v in params.items()}
    ids, before = library.ids("story", "test")[:400], library.before("story", "test")
    still = training.prices(params, config, ids, before, stride=8)
    rows = corpus.batches([library.ids("story", "train")], 30, 1, config.context, 0)[:, 0]
    moving, again = training.adaptive_prices(
        arrays, config, [(ids, before)] * 2, rows, 3e-3, stride=8
    )
    assert np.array_equal(moving, again)  # every text starts from the same weights
    assert np.abs(moving[:8] - still[:8]).max() < 1e-5  # nothing learned yet
    assert moving.mean() < still.mean() - 0.05
    assert all(np.array_equal(arrays[n], params[n].numpy()) for n in arrays)


def test_saved_model_gives_the_same_logits(library, tmp_path):
    config = config_for(library)
    arrays = training.network(config).init(config)
    training.save_arrays(tmp_path / "model.safetensors", arrays, config, library.tokeniser.pieces)
    loaded, same_config, tokeniser = training.load_model(tmp_path / "model.safetensors")
    assert same_config == config and tokeniser.pieces == library.tokeniser.pieces
    ids = library.ids("story", "test")[None, :16]
    logits = [training.network(config).logits(p, ids, config).numpy() for p in (arrays, loaded)]
    assert np.array_equal(*logits)
    with pytest.raises(settings.UserError, match=r"none\.safetensors: not found"):
        training.load_model(tmp_path / "none.safetensors")


def test_orthogonal_step_has_singular_values_near_one():
    g = tf.constant(np.random.default_rng(0).standard_normal((2, 6, 20)).astype(np.float32))
    values = np.linalg.svd(optimiser.orthogonal(g).numpy(), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.25


def test_adam_equals_keras():
    start = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    ours, theirs = {"w": tf.Variable(start)}, tf.Variable(start)
    mine = optimiser.Optimiser(ours, training.Recipe(1, adam=1e-2, muon=0.0))
    keras = tf.keras.optimizers.Adam(1e-2, beta_1=0.9, beta_2=0.98, epsilon=1e-8)
    for i in range(5):
        mine.apply({"w": 2 * ours["w"]}, 1.0, tf.constant(i))
        keras.apply_gradients([(2 * theirs, theirs)])
    assert np.abs(ours["w"].numpy() - theirs.numpy()).max() < 1e-5


def test_schedule_rises_then_falls_to_zero():
    shares = optimiser.schedule(training.Recipe(100, warmup=0.1))
    assert (
        shares.argmax() in (9, 10) and shares.max() <= 1 and shares[0] < 0.1 and shares[-1] < 0.01
    )


def test_arms_match_in_core_parameters():
    p = settings.load("sample").language
    known = training.arms(p, 73)

    def core(name):
        arrays = training.network(known[name].config).init(known[name].config)
        return sum(a.size for n, a in arrays.items() if "." in n or n == "back")

    assert abs(core("lstm") / core("attention") - 1) < 0.01
    assert known["adam"].recipe.muon == 0 and known["only-hamlet"].books == ("hamlet",)


def test_text_is_written_from_a_saved_model(library, tmp_path):
    config = config_for(library)
    path = tmp_path / "model.safetensors"
    training.save_arrays(
        path, training.network(config).init(config), config, library.tokeniser.pieces
    )
    first = training.write_text("The cat", 30, seed=3, path=path)
    assert first.startswith("The cat") and len(first) == 37
    assert first == training.write_text("The cat", 30, seed=3, path=path)
    for prompt, fault in (("", "one symbol or more"), ("cat ß", "'ß' at position 4")):
        with pytest.raises(settings.UserError, match=fault):
            training.write_text(prompt, 5, path=path)


def test_an_own_text_is_trained_and_priced(tmp_path, monkeypatch):
    chosen = settings.load("sample")
    tiny = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 32,
        "context": 16,
        "attention_steps": 3,
        "gram_buckets": (31, 37),
        "adapt_stride": 8,
    }
    language = chosen.language.model_copy(update=tiny | {"stride": 8})
    chosen = chosen.model_copy(update={"language": language})
    monkeypatch.setattr(training, "setup", lambda threads: None)
    text = tmp_path / "mine.txt"
    text.write_text(story(lines=120))
    training.train(chosen, ["attention"], 0, tmp_path, text)
    found = weights.load(tmp_path / "attention-0" / "prices.safetensors").arrays
    assert set(found) == {"losses"} | {
        f"mine.{part}{kind}" for part in ("val", "test") for kind in ("", ".adaptive")
    }
    with pytest.raises(settings.UserError, match=r"no\.txt: no readable"):
        training.train(chosen, ["attention"], 0, tmp_path, tmp_path / "no.txt")
    with pytest.raises(
        settings.UserError, match="no arm gru; there are ablations, attention, lstm"
    ):
        training.train(chosen, ["gru"], 0, tmp_path, text)


def test_the_shipped_model_writes():
    text = training.write_text("To be, or not to be", 40, temperature=0.9, seed=1)
    assert len(text) == 59 and set(text) <= set(training.load_model(SHIPPED)[2].pieces)
