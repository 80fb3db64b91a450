"""One training loop for every network of this wing, and how a trained network is priced on held-out text.

Optimiser: Muon for matrices (Jordan et al. 2024: momentum, then five Newton-Schulz steps towards the nearest
orthogonal matrix) and Adam for the rest (Kingma and Ba 2015; decoupled weight decay, Loshchilov and Hutter 2019).
Learning rates rise linearly, then fall linearly to zero. Runs are limited by steps, never by time.
Shapes: B windows, T symbols, N scored symbols, V vocabulary.
"""

import argparse
import functools
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from lib import data, files
from lib import params as settings
from lib.language import causal, corpus, lstm
from lib.language.symbols import Config
from lib.params import UserError

CORES = {"attention": causal, "lstm": lstm}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; `adam` and `muon` are peak learning rates, muon 0 means Adam for everything."""

    steps: int
    batch: int = 16
    adam: float = 3e-3
    muon: float = 0.02
    decay: float = 0.0
    warmup: float = 0.05  # share of the steps


def network(config: Config):
    return CORES[config.kind]


def nats_of(params, windows, config: Config, seed=None):
    """Price (B, T) of every symbol but the first of windows (B, T+1)."""
    scores = network(config).logits(params, windows[:, :-1], config, seed)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], scores)


def orthogonal(g):
    """Newton-Schulz towards the orthogonal factor of each matrix (L, m, n), m <= n."""
    x = g / (tf.norm(g, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        s = tf.matmul(x, x, transpose_b=True)  # (L, m, m)
        x = 3.4445 * x + tf.matmul(-4.775 * s + 2.0315 * tf.matmul(s, s), x)
    return x


class Optimiser:
    """Slots per variable and one update; `scale` is the share of the peak learning rates."""

    def __init__(self, params: dict, recipe: Recipe):
        self.recipe, self.params = recipe, params
        self.matrices = [n for n, v in params.items() if recipe.muon and "." in n and v.shape.rank == 2]
        self.others = [n for n in params if n not in self.matrices and not n.startswith("frozen")]
        self.slots = {f"first.{n}": tf.Variable(tf.zeros_like(v)) for n, v in params.items()}
        self.slots |= {f"second.{n}": tf.Variable(tf.zeros_like(params[n])) for n in self.others}

    def apply(self, grads: dict, scale, step):
        self._adam({n: tf.convert_to_tensor(grads[n]) for n in self.others}, scale, tf.cast(step, tf.float32) + 1)
        shapes = {}
        for name in self.matrices:  # equal shapes share one batched Newton-Schulz
            shapes.setdefault(tuple(self.params[name].shape), []).append(name)
        for shape, names in shapes.items():
            self._muon(shape, names, tf.stack([grads[n] for n in names]), scale)

    def _adam(self, grads, scale, t):
        rate, decay = self.recipe.adam * scale, self.recipe.decay
        for name, g in grads.items():
            first = self.slots[f"first.{name}"].assign(0.9 * self.slots[f"first.{name}"] + 0.1 * g)
            second = self.slots[f"second.{name}"].assign(0.98 * self.slots[f"second.{name}"] + 0.02 * g * g)
            step = first / (1 - 0.9**t) / (tf.sqrt(second / (1 - 0.98**t)) + 1e-8)
            self.params[name].assign_sub(rate * (step + decay * self.params[name]))

    def _muon(self, shape, names, g, scale):
        slots = [self.slots[f"first.{n}"] for n in names]
        momentum = 0.95 * tf.stack(slots) + g
        flat = shape[0] <= shape[1]
        g = g + 0.95 * momentum
        x = orthogonal(g if flat else tf.linalg.matrix_transpose(g))
        x = (x if flat else tf.linalg.matrix_transpose(x)) * max(1.0, shape[1] / shape[0]) ** 0.5
        rate = self.recipe.muon * scale
        for i, name in enumerate(names):
            slots[i].assign(momentum[i])
            self.params[name].assign_sub(rate * (x[i] + self.recipe.decay * self.params[name]))


def schedule(recipe: Recipe) -> np.ndarray:
    """Share of the peak rate at every step (S,)."""
    done = (np.arange(recipe.steps) + 0.5) / recipe.steps
    return np.minimum(done / max(recipe.warmup, 1e-9), (1 - done) / (1 - recipe.warmup)).astype(np.float32)


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


def fit(params, loss_of, recipe: Recipe, windows, seed: int, compiled=False, checkpoint=None, every=100):
    """Train `params` in place on windows (S, B, T+1); prices in nats per step (S,).

    With a `checkpoint` path the state is written every `every` steps, and a run that was stopped goes on from
    there to the same bits; the masks of step i depend on (seed, i) alone.
    """
    optimiser, losses, scale = Optimiser(params, recipe), np.zeros(recipe.steps), schedule(recipe)
    state = {f"param.{n}": v for n, v in params.items()} | optimiser.slots
    done = _resume(checkpoint, state, losses) if checkpoint else 0
    step = make_step(params, loss_of, optimiser, compiled)
    for i in range(done, recipe.steps):
        losses[i] = step(tf.constant(windows[i]), tf.constant(scale[i]), tf.constant(seed), tf.constant(i))
        if checkpoint and (i + 1) % every == 0:
            arrays = {n: v.numpy() for n, v in state.items()}
            save_arrays(checkpoint, arrays | {"losses": losses, "done": np.array([i + 1])})
    return losses


def _resume(checkpoint, state, losses) -> int:
    if not Path(checkpoint).is_file():
        return 0
    arrays = load_file(checkpoint)
    if arrays.keys() != state.keys() | {"losses", "done"} or len(arrays["losses"]) != len(losses):
        raise UserError(f"{checkpoint}: belongs to another run; remove it to start afresh")
    for name, variable in state.items():
        variable.assign(arrays[name])
    losses[:] = arrays["losses"]
    return int(arrays["done"][0])


def save_arrays(path, arrays: dict, config: Config | None = None, pieces=()) -> None:
    """Arrays as safetensors, written whole or not at all; with the configuration and vocabulary of a model."""
    about = {"config": json.dumps(asdict(config)), "pieces": json.dumps(pieces)} if config else None
    with files.atomic(path) as partial:
        save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, partial, metadata=about)


def load_model(path):
    """(arrays, config, tokeniser) of a saved model. Raises UserError: missing, or no model of this project."""
    try:
        with safe_open(path, "numpy") as stored:
            about, arrays = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
        fields, pieces = json.loads(about["config"]), json.loads(about["pieces"])
        fields["grams"] = tuple(map(tuple, fields["grams"]))
        return arrays, Config(**fields), corpus.Tokeniser(tuple(pieces), list)
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a saved language model ({error})") from None


def windows_over(ids, before, length: int, stride: int):
    """Windows (K, T+1) whose last `stride` symbols tile the text; `before` supplies the earlier context.

    Raises:
        ValueError: fewer than T + 1 symbols stand before the text.
    """
    if len(before) <= length:
        raise ValueError(f"pricing needs {length + 1} symbols before the text, found {len(before)}")
    joined = np.concatenate([before[len(before) - length - 1 :], ids]).astype(np.int32)
    ends = np.minimum(np.arange(stride, len(ids) + stride, stride), len(ids)) + length + 1
    return np.stack([joined[end - length - 1 : end] for end in ends])


def _tile(rows, total: int, stride: int) -> np.ndarray:
    """Last `stride` prices of every window, laid side by side (N,)."""
    rest = total - (len(rows) - 1) * stride
    return np.concatenate([*(row[-stride:] for row in rows[:-1]), rows[-1][-rest:]]).astype(np.float64)


@functools.cache
def _pricer(config: Config):
    return tf.function(lambda params, windows: nats_of(params, windows, config), autograph=False)


def prices(params, config: Config, ids, before, stride: int = 32, batch: int = 64) -> np.ndarray:
    """Price in nats (N,) of every symbol of a text, with at least T - stride symbols of context."""
    rows = windows_over(ids, before, config.context, stride)
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch, axis=0)])  # one shape, one trace
    held = {name: tf.convert_to_tensor(a) for name, a in params.items()}
    found = [_pricer(config)(held, tf.constant(padded[i : i + batch])).numpy() for i in range(0, len(rows), batch)]
    return _tile(np.concatenate(found)[: len(rows)], len(ids), stride)


def adaptive_prices(arrays, config: Config, ids, before, recipe: Recipe, stride: int = 64) -> np.ndarray:
    """Dynamic evaluation (Krause et al. 2018): price `stride` symbols, then take one training step on them."""
    params = {name: tf.Variable(a) for name, a in arrays.items()}
    optimiser = Optimiser(params, recipe)
    names = [n for n in params if not n.startswith("frozen")]

    @tf.function(autograph=False, jit_compile=config.kind == "attention")
    def step(window, index):
        with tf.GradientTape() as tape:
            nats = nats_of(params, window, config)
            loss = tf.reduce_mean(nats[:, -stride:])
        grads = tape.gradient(loss, [params[n] for n in names])
        optimiser.apply(dict(zip(names, grads, strict=True)), 1.0, index)
        return nats[0]

    rows = windows_over(ids, before, config.context, stride)
    found = [step(tf.constant(row[None]), tf.constant(i)).numpy() for i, row in enumerate(rows)]
    return _tile(np.stack(found), len(ids), stride)


# ---------------------------------------------------------------- arms of the two notebooks


BOOKS = ("alice29", "hamlet")
FAR = ("asyoulik", "hamlet_folio")  # read by no arm


class Arm(NamedTuple):
    config: Config
    recipe: Recipe
    books: tuple[str, ...] = BOOKS
    adapt: bool = False


def arms(p, vocab: int) -> dict[str, Arm]:
    """Every arm by name, from the section `language` of params.yaml."""
    grams = tuple(zip((2, 3), p.gram_buckets, strict=False))
    base = Config(vocab, "attention", p.width, p.layers, p.heads, p.hidden, p.context, grams, p.dropout)
    memory = replace(base, kind="lstm", layers=p.lstm_layers, hidden=p.lstm_hidden, dropout=p.lstm_dropout)
    main = Recipe(p.attention_steps, p.batch, p.adam, p.muon, p.decay, p.warmup)
    small = replace(base, width=p.small_width, layers=2, hidden=4 * p.small_width, grams=(), dropout=0.0)
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
    found = {"attention": Arm(base, main, adapt=True)}
    found["lstm"] = Arm(memory, replace(main, steps=p.lstm_steps, muon=p.lstm_muon, adam=p.lstm_adam), adapt=True)
    found |= {name: Arm(replace(small, **change), short) for name, change in switches.items()}
    found["adam"] = Arm(small, replace(short, muon=0.0))
    return found | {f"only-{book}": Arm(small, short, (book,)) for book in BOOKS}


def setup(threads: int) -> None:
    """Fixed thread counts and deterministic kernels; the first thing a process that trains does."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def run_arm(arm: Arm, library: corpus.Corpus, p, seed: int, folder: Path) -> None:
    """Train one arm, price every held-out part, write weights.safetensors and prices.safetensors."""
    config, recipe = arm.config, arm.recipe
    params = {name: tf.Variable(a) for name, a in network(config).init(config, seed).items()}
    streams = [library.ids(book, "train") for book in arm.books]
    windows = corpus.batches(streams, recipe.steps, recipe.batch, config.context, seed)

    def loss_of(arrays, rows, key):
        return tf.reduce_mean(nats_of(arrays, rows, config, key))

    checkpoint = settings.root() / "checkpoints" / f"language-{folder.name}.safetensors"
    losses = fit(params, loss_of, recipe, windows, seed, config.kind == "attention", checkpoint)
    arrays, found = {name: v.numpy() for name, v in params.items()}, {"losses": losses}
    adapt = replace(recipe, adam=p.adapt_adam, muon=p.adapt_muon, decay=0.0)
    for book, part in [(b, part) for b in library.parts for part in ("val", "test")]:
        text = library.ids(book, part), library.before(book, part)
        if book in FAR and part == "val":
            continue
        found[f"{book}.{part}"] = prices(params, config, *text, stride=p.stride)
        if arm.adapt and part == "test" and book not in FAR:
            found[f"{book}.{part}.adaptive"] = adaptive_prices(arrays, config, *text, adapt, p.adapt_stride)
    save_arrays(folder / "weights.safetensors", arrays, config, library.tokeniser.pieces)
    save_arrays(folder / "prices.safetensors", found)
    checkpoint.unlink(missing_ok=True)


def library_of(texts: dict[str, str]) -> corpus.Corpus:
    """All four books; the vocabulary from the training parts of the two that arms train on."""
    known = corpus.load({book: texts[book] for book in BOOKS})
    far = {book: corpus.split_book(corpus.clean(texts[book])) for book in FAR}
    return replace(known, parts=known.parts | far)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no readable UTF-8 text ({error})") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.language.training", description="Train arms.")
    parser.add_argument("--arm", nargs="+", required=True, help="names, or `ablations`: all but the two large")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", choices=settings.PROFILES)
    parser.add_argument("--text", type=Path, help="a text of your own (UTF-8) in place of the two books")
    parser.add_argument("--out", type=Path, required=True, help="a folder per arm and seed goes here")
    options = parser.parse_args(arguments)
    try:
        _train(options, settings.load(options.profile))
    except (UserError, ValueError) as error:
        print(f"lib.language.training: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options, chosen) -> None:
    own = {options.text.stem: read_text(options.text)} if options.text else None
    library = corpus.load(own) if own else library_of(data.books())
    known = arms(chosen.language, len(library.tokeniser))
    names = [n for n in known if n not in ("attention", "lstm")] if options.arm == ["ablations"] else options.arm
    if odd := sorted(set(names) - known.keys()):
        raise UserError(f"no arm {', '.join(odd)}; there are ablations, {', '.join(known)}")
    setup(chosen.threads)
    for name in names:
        arm = known[name]._replace(books=tuple(own)) if own else known[name]
        run_arm(arm, library, chosen.language, options.seed, options.out / f"{name}-{options.seed}")


def write_text(prompt: str, length: int, temperature=0.9, top_k=0, top_p=1.0, seed=0, path=None) -> str:
    """The prompt and its continuation by a saved attention model (the shipped one without a path).

    Raises:
        UserError: no such model, an unknown character in the prompt, an empty prompt, a setting out of range.
    """
    arrays, config, tokeniser = load_model(path or settings.root() / "models" / "attention_lm.safetensors")
    try:
        ids = tokeniser.encode(prompt)
        written = causal.Generator(arrays, config)(ids, length, temperature, top_k, top_p, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    return prompt + tokeniser.decode(written)


if __name__ == "__main__":
    sys.exit(main())
