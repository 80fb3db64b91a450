"""One training loop for every network of this study, its saved state, and the arms of notebooks 04 and 05.

Runs are limited by steps, never by time, and repeat bit by bit on the same machine and number of threads.
`python -m lib train language --arm attention --out FOLDER` trains one arm; `--text FILE` trains it on a text of
your own (UTF-8, with blank lines), cut 80 / 10 / 10 like the books.
Shapes: S steps, B windows, T symbols.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lib.common import data, weights
from lib.common import params as settings
from lib.common.params import UserError
from lib.language import causal, corpus
from lib.language.optimiser import Optimiser, Recipe, schedule
from lib.language.pricing import adaptive_prices, nats_of, network, prices
from lib.language.settings import Language
from lib.language.symbols import Config

BOOKS = ("alice29", "hamlet")
LONGEST = 20_000_000  # bytes of a text or characters of a prompt; minutes and gigabytes lie beyond
LARGE = ("attention", "lstm")  # the two networks of the race
FAR = ("asyoulik", "hamlet_folio")  # read by no arm


def make_step(params, loss_of, optimiser: Optimiser, compiled: bool = False):
    """A graph that takes one step: (windows, scale, seed, step) -> mean price in nats before the step."""
    names = [n for n in params if not n.startswith("frozen")]

    @tf.function(jit_compile=compiled, autograph=False)
    def step(windows, scale, seed, index):
        with tf.GradientTape() as tape:
            loss = loss_of(params, windows, tf.stack([seed, index]))
        grads = tape.gradient(loss, [params[n] for n in names])
        optimiser.apply(dict(zip(names, grads, strict=True)), scale, index)
        return loss

    return step


def fit(
    params,
    loss_of,
    recipe: Recipe,
    windows,
    seed: int,
    compiled=False,
    checkpoint=None,
    every=100,
    config: Config | None = None,
    after_step: Callable[[int, float], None] | None = None,
):
    """Train `params` in place on windows (S, B, T+1); prices in nats per step (S,).

    With a `checkpoint` path the state is written every `every` steps, and a run that was stopped goes on from
    there to the same bits; the masks of step i depend on (seed, i) alone. See `Recipe.average` for the result.

    Args:
        config: of the network; with recipe, windows and seed it is the identity of the checkpoint.
        after_step: told the number of steps done and the loss of the last one.

    Raises:
        UserError: the loss is not finite, or the checkpoint is damaged or belongs to another run.
    """
    optimiser = Optimiser(params, recipe)
    losses = np.zeros(recipe.steps)
    scale = schedule(recipe)
    means = {n: tf.Variable(v) for n, v in params.items()} if recipe.average else {}
    state = {f"param.{n}": v for n, v in params.items()}
    state |= {f"mean.{n}": v for n, v in means.items()}
    state |= optimiser.slots
    done = 0
    if checkpoint:
        settings_of_run = [part for part in (config, recipe) if part is not None]
        mine = weights.identity(windows, *settings_of_run, seed=seed)
        done = _resume(checkpoint, mine, state, losses)
    step = make_step(params, loss_of, optimiser, compiled)
    for i in range(done, recipe.steps):
        losses[i] = step(
            tf.constant(windows[i]), tf.constant(scale[i]), tf.constant(seed), tf.constant(i)
        )
        if not np.isfinite(losses[i]):
            raise UserError(
                f"step {i + 1}: the loss is {losses[i]}; a checkpoint, if there is one, is of a good state"
            )
        if after_step:
            after_step(i + 1, float(losses[i]))
        if means and (i + 1) % max(1, recipe.steps // 100) == 0:
            # In the first half the mean follows the weights; then it forgets slowly.
            share = 1 - recipe.average * (2 * i > recipe.steps)
            for n, mean in means.items():
                mean.assign_add(share * (params[n] - mean))
        if checkpoint and (i + 1) % every == 0:
            arrays = {n: v.numpy() for n, v in state.items()}
            arrays |= {"losses": losses, "done": np.array([i + 1])}
            weights.save(checkpoint, arrays, {"identity": mine})
    for n, mean in means.items():
        params[n].assign(mean)
    return losses


def _resume(checkpoint, mine: dict, state: dict, losses) -> int:
    """Set state and losses to a checkpoint of the same identity; the steps that it has done, 0 without one."""
    if not Path(checkpoint).is_file():
        return 0
    kind = {"kind": "checkpoint of this project", "cure": "delete it to start afresh"}
    with weights.readable(checkpoint, **kind):
        arrays, about = weights.load(checkpoint, **kind)
        weights.check_same(checkpoint, about["identity"], mine)
        for name, variable in state.items():
            variable.assign(arrays[name])
        losses[:] = arrays["losses"]
        return int(arrays["done"][0])


def save_arrays(path, arrays: dict, config: Config | None = None, pieces=()) -> None:
    """Arrays as safetensors, written whole or not at all; with the configuration and vocabulary of a model."""
    about = {"about": {"config": asdict(config), "pieces": pieces}} if config else None
    weights.save(path, arrays, about)


def load_model(path):
    """(arrays, config, tokeniser) of a saved model. Raises UserError: missing, or no model of this project."""
    kind = {
        "kind": "saved language model",
        "cure": "train it with `python -m lib train language`",
    }
    with weights.readable(path, **kind):
        stored = weights.load(path, **kind)
        fields, pieces = stored.about["about"]["config"], stored.about["about"]["pieces"]
        fields["grams"] = tuple(map(tuple, fields["grams"]))
        config, tokeniser = Config(**fields), corpus.Tokeniser(tuple(pieces), list)
    arrays = {name: array.astype(np.float32) for name, array in stored.arrays.items()}
    shapes = {name: array.shape for name, array in network(config).init(config).items()}
    weights.check_shapes(path, arrays, shapes)
    return arrays, config, tokeniser


class Arm(NamedTuple):
    """A network, how it is trained, on which books, and whether dynamic evaluation is priced too."""

    config: Config
    recipe: Recipe
    books: tuple[str, ...] = BOOKS
    adapt: bool = False


def arms(p: Language, vocab: int) -> dict[str, Arm]:
    """Every arm by name, from the section `language` of params.yaml."""
    grams = tuple(zip((2, 3), p.gram_buckets, strict=False))
    base = Config(
        vocab,
        kind="attention",
        width=p.width,
        layers=p.layers,
        heads=p.heads,
        hidden=p.hidden,
        context=p.context,
        grams=grams,
        dropout=p.dropout,
        gram_dropout=p.gram_dropout,
    )
    memory = replace(
        base, kind="lstm", layers=p.lstm_layers, hidden=p.lstm_hidden, dropout=p.lstm_dropout
    )
    main = Recipe(p.attention_steps, p.batch, p.adam, p.muon, p.warmup, p.average)
    small = replace(
        base,
        width=p.small_width,
        layers=2,
        hidden=4 * p.small_width,
        grams=(),
        dropout=0,
        gram_dropout=0,
    )
    short = replace(main, steps=p.small_steps)
    switches = {
        "small": {},
        "one-head": {"heads": 1},
        "no-projection": {"project": False},
        "no-residual": {"residual": False},
        "no-scale": {"scaled": False},
        "frozen-positions": {"positions": "frozen"},
        "no-positions": {"positions": "none"},
        "n-gram-inputs": {"grams": grams},
    }
    found = {
        "attention": Arm(base, main, adapt=True),
        "lstm": Arm(memory, replace(main, steps=p.lstm_steps), adapt=True),
    }
    found |= {name: Arm(replace(small, **change), short) for name, change in switches.items()}
    found |= {f"only-{book}": Arm(small, short, (book,)) for book in BOOKS}
    return found | {"adam": Arm(small, replace(short, muon=0.0))}


def setup(threads: int) -> None:
    """Fixed thread counts and deterministic kernels; the first thing a process that trains does."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def held_out(library: corpus.Corpus) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The parts that are priced, "book.part" -> (ids, what stands before): of books no arm reads the test part."""
    texts = {}
    for book in library.parts:
        for part in ("test",) if book in FAR else ("val", "test"):
            texts[f"{book}.{part}"] = (library.ids(book, part), library.before(book, part))
    return texts


def run_arm(
    arm: Arm, library: corpus.Corpus, p: Language, seed: int, folder: Path, keep: bool = True
) -> None:
    """Train one arm, price every held-out part, write prices.safetensors and, to `keep`, weights.safetensors."""
    config, recipe = arm.config, arm.recipe
    params = {name: tf.Variable(a) for name, a in network(config).init(config, seed).items()}
    streams = [library.ids(book, "train") for book in arm.books]
    windows = corpus.batches(streams, recipe.steps, recipe.batch, config.context, seed)
    checkpoint = settings.root() / "checkpoints" / f"language-{folder.name}.safetensors"

    def loss_of(params, rows, key):
        return tf.reduce_mean(nats_of(params, rows, config, key))

    # Compiling takes about 10 s; an LSTM gains nothing by it.
    compiled = config.kind == "attention" and recipe.steps >= 300
    losses = fit(params, loss_of, recipe, windows, seed, compiled, checkpoint, config=config)
    arrays = {name: v.numpy() for name, v in params.items()}
    found = {"losses": losses}
    texts = held_out(library)
    for name, (ids, before) in texts.items():
        found[name] = prices(params, config, ids, before, stride=p.stride)
    if arm.adapt:
        near = {name: text for name, text in texts.items() if name.split(".")[0] not in FAR}
        sample = corpus.batches(streams, 100, 1, config.context, seed)[:, 0]  # (100, T+1)
        moved = adaptive_prices(arrays, config, near.values(), sample, p.adapt_rate, p.adapt_stride)
        for name, nats in zip(near, moved, strict=True):
            found[f"{name}.adaptive"] = nats
    if keep:  # half the file; read back as 32-bit floats
        small = {name: a.astype(np.float16) for name, a in arrays.items()}
        save_arrays(folder / "weights.safetensors", small, config, library.tokeniser.pieces)
    save_arrays(folder / "prices.safetensors", found)
    checkpoint.unlink(missing_ok=True)


def library_of(texts: dict[str, str]) -> corpus.Corpus:
    """All four books; the vocabulary from the training parts of the two that arms train on."""
    known = corpus.load({book: texts[book] for book in BOOKS}, limit=0.01)
    far = {book: corpus.split_book(corpus.clean(texts[book])) for book in FAR}
    return replace(known, parts=known.parts | far)


def read_text(path: Path) -> str:
    """A text file as UTF-8. Raises UserError: no such file, too long, or other bytes."""
    try:
        if (size := path.stat().st_size) > LONGEST:
            raise UserError(f"{path}: {size:,} bytes; allowed are {LONGEST:,}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no readable UTF-8 text ({error})") from None


def ensure(profile: str, wanted: list[tuple[str, int]]) -> Path:
    """Folder of the runs. Arms (name, seed) that are not there are trained first, in processes of their own."""
    folder = settings.root() / "runs" / profile / "language"
    for name, seed in wanted:
        out = folder / "ablations" if name == "ablations" else folder
        if not (out if name == "ablations" else out / f"{name}-{seed}").is_dir():
            command = [sys.executable, "-m", "lib", "train", "language"]
            command += ["--arm", name, "--seed", str(seed)]
            command += ["--profile", profile, "--out", str(out)]
            subprocess.run(command, check=True, cwd=settings.root())
    return folder


def train(
    chosen: settings.Params, names: Sequence[str], seed: int, out: Path, text: Path | None = None
) -> None:
    """Train arms, each into a folder `<out>/<arm>-<seed>` with its weights and prices.

    Args:
        names: of the arms; `ablations` stands for all but the two large ones.
        text: a text of one's own (UTF-8), with blank lines, in place of the two books.

    Raises:
        UserError: no such arm, or a text that cannot be read or cut.
    """
    own = {text.stem: read_text(text)} if text else None
    try:
        library = corpus.load(own) if own else library_of(data.books())
    except ValueError as error:
        raise UserError(str(error)) from None
    known = arms(chosen.language, len(library.tokeniser))
    if list(names) == ["ablations"]:
        names = [name for name in known if name not in LARGE]
    if odd := sorted(set(names) - known.keys()):
        raise UserError(f"no arm {', '.join(odd)}; there are ablations, {', '.join(known)}")
    setup(chosen.threads)
    for name in names:
        arm = known[name]._replace(books=tuple(own)) if own else known[name]
        # notebooks open the two large networks of the first seed; of all others they read the prices
        keep = bool(own) or (name in LARGE and seed == chosen.seed)
        run_arm(arm, library, chosen.language, seed, out / f"{name}-{seed}", keep)


def write_text(
    prompt: str, length: int, temperature=0.9, top_k=0, top_p=1.0, seed=0, path=None
) -> str:
    """The prompt and what a saved model writes on; UserError: no model, unknown character, no prompt, bad setting."""
    if max(len(prompt), length) > LONGEST:
        raise UserError(
            f"a prompt or a length of {max(len(prompt), length):,} characters; allowed are {LONGEST:,}"
        )
    arrays, config, tokeniser = load_model(
        path or settings.root() / "models" / "attention_lm.safetensors"
    )
    try:
        ids = tokeniser.encode(prompt)
        written = causal.Generator(arrays, config)(ids, length, temperature, top_k, top_p, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    return prompt + tokeniser.decode(written)
