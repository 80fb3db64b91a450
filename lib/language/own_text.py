"""Train attention on a text of your own and say what its last tenth costs: `python -m lib train-text FILE`.

The text is used as it is, but for its line ends. It is cut where it stands: the network learns from the first 85 %,
the weights of all mixtures from the next 5 %, and the last 10 %, which nothing has seen, are priced. A character that
comes less than twice in the training part counts as unknown, so the network learns what to expect of unknown ones;
whoever meets one pays its bytes on top.
Shapes: N held-out characters, V vocabulary, S steps.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lib.common.params import Params, UserError
from lib.language import corpus, ngram, training
from lib.language.mixing import Mixer
from lib.language.optimiser import Optimiser, Recipe
from lib.language.pricing import nats_of, network
from lib.language.reading import AdaptiveReader, static_rows
from lib.language.settings import Language
from lib.language.symbols import Config

LEARN, TUNE = 0.85, 0.05  # shares of the text; the rest is held out
SHORTEST = 10_000  # characters; a shorter text has too little to learn from and to price
MOST_CHARACTERS = 400  # in the vocabulary; the rarer ones are unknown. 400 ** 7 fits 64 bits
MOST_COUNTED = 1_000_000  # characters that the mixer keeps in memory, about 2 GB
MOST_PRICED = 200_000  # held-out characters that are priced
ORDER = 7  # of the Kneser-Ney yardstick
SHORT_ORDER = 3  # of the one that smooths the network
UNIFORM = 0.005  # share of the uniform distribution in the smoothed network
PPMD_ORDER, PPMD_MEMORY = 8, 64 << 20
TIMED_STEPS = 8

Report = Callable[[str], None]


class Text(NamedTuple):
    """A text in three parts, as characters and as ids."""

    learn: np.ndarray  # ids
    tune: np.ndarray
    held: np.ndarray  # (N,)
    known_text: str  # what the first two parts say
    held_text: str
    tokeniser: corpus.Tokeniser


class Outcome(NamedTuple):
    """What came of a training."""

    prices: dict[str, np.ndarray]  # bits (N,) of each held-out character, by model
    unseen: np.ndarray  # (N,) whether it belongs to a word that the training part lacks
    steps: int
    cpu_seconds: float


# --- the text --------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a file. UserError: missing, a folder, empty, no UTF-8, too short or too long."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a text file is needed")
    try:
        size = path.stat().st_size
        if size > training.LONGEST:
            raise UserError(f"{path}: {size:,} bytes; allowed are {training.LONGEST:,}")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 text (the byte at {error.start:,})") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise UserError(f"{path}: is empty")
    if len(text) < SHORTEST:
        raise UserError(f"{path}: {len(text):,} characters; {SHORTEST:,} or more are needed")
    return text


def vocabulary(known: str) -> corpus.Tokeniser:
    """The characters that come twice or more, at most MOST_CHARACTERS of them; all others are unknown."""
    frequent = Counter(known).most_common(MOST_CHARACTERS)
    kept = sorted(character for character, count in frequent if count >= 2)
    return corpus.Tokeniser((corpus.UNKNOWN, *kept), list)


def cut(text: str) -> Text:
    """The three parts, contiguous; of the held-out part at most MOST_PRICED characters."""
    learn_end = round(len(text) * LEARN)
    tune_end = round(len(text) * (LEARN + TUNE))
    known_text = text[:tune_end]
    held_text = text[tune_end : tune_end + MOST_PRICED]
    tokeniser = vocabulary(text[:learn_end])
    return Text(
        learn=tokeniser.encode(text[:learn_end], strict=False),
        tune=tokeniser.encode(text[learn_end:tune_end], strict=False),
        held=tokeniser.encode(held_text, strict=False),
        known_text=known_text,
        held_text=held_text,
        tokeniser=tokeniser,
    )


def escape_bits(text: str, ids: np.ndarray) -> np.ndarray:
    """What naming the unknown characters costs: 8 bits for each of their bytes (N,)."""
    sizes = [len(character.encode()) for character in text]
    return np.where(ids == 0, 8.0 * np.array(sizes), 0.0)


def unseen_words(known: str, text: str) -> np.ndarray:
    """Which characters (N,) of a text belong to a word that `known` lacks, in whatever case."""
    known_words = {word.lower() for word in re.findall(r"\w+", known)}
    unseen = np.zeros(len(text), bool)
    for word in re.finditer(r"\w+", text):
        if word.group().lower() not in known_words:
            unseen[word.start() : word.end()] = True
    return unseen


# --- the network -----------------------------------------------------------------------------------------------------


def fresh(config: Config, seed: int) -> dict[str, tf.Variable]:
    """The variables of an untrained network."""
    return {name: tf.Variable(array) for name, array in network(config).init(config, seed).items()}


def loss_for(config: Config):
    """The mean price of windows, in nats: what a training lowers."""

    def loss_of(params, windows, key):
        return tf.reduce_mean(nats_of(params, windows, config, key))

    return loss_of


def seconds_a_step(config: Config, recipe: Recipe, learn: np.ndarray, seed: int) -> float:
    """CPU seconds of a step, the median of a few that a throw-away network takes."""
    params = fresh(config, seed)
    recipe = replace(recipe, steps=TIMED_STEPS + 1)
    windows = corpus.batches([learn], recipe.steps, recipe.batch, config.context, seed)
    step = training.make_step(params, loss_for(config), Optimiser(params, recipe), compiled=True)
    seconds = []
    for index, batch in enumerate(windows):
        started = time.process_time()
        step(tf.constant(batch), tf.constant(0.1), tf.constant(seed), tf.constant(index))
        seconds.append(time.process_time() - started)
    return float(np.median(seconds[1:]))  # the first one compiles


def seconds_for_training(minutes: float, characters: int, spent: float) -> float:
    """What is left of the minutes when pricing, which takes longer for a longer text, has got its share."""
    left = 60 * minutes - spent
    pricing = 60 + 250 * characters / 1_000_000
    return max(0.3 * left, left - pricing)


def train(text: Text, config: Config, recipe: Recipe, seed: int, report: Report) -> dict:
    """The arrays of a network that has learned from the first part."""
    params = fresh(config, seed)
    windows = corpus.batches([text.learn], recipe.steps, recipe.batch, config.context, seed)
    told = time.monotonic()

    def after_step(done: int, nats: float) -> None:
        nonlocal told
        if done == recipe.steps or time.monotonic() - told > 5:
            told = time.monotonic()
            report(f"step {done:,} of {recipe.steps:,}: {nats / np.log(2):.2f} bits a character")

    training.fit(
        params,
        loss_for(config),
        recipe,
        windows,
        seed,
        compiled=True,
        config=config,
        after_step=after_step,
    )
    return {name: variable.numpy() for name, variable in params.items()}


# --- prices ----------------------------------------------------------------------------------------------------------


def of_symbols(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Prices in nats (N,) of the symbols that came, from log-probabilities (N, V)."""
    return -rows[np.arange(len(ids)), ids].astype(np.float64)


def counted_nats(text: Text) -> np.ndarray:
    """What Kneser-Ney, which has read both training parts, charges for the held-out part."""
    known = np.concatenate([text.learn, text.tune])
    model = ngram.KneserNey([known], ORDER, len(text.tokeniser))
    return model.nats(text.held, known)


def smoothed_nats(text: Text, tune_nats: np.ndarray, held_nats: np.ndarray) -> np.ndarray:
    """The network's prices made safe: mixed with short contexts and with the uniform distribution.

    A short context knows which letters may follow in any word; the uniform share is an upper bound for every price.
    """
    short = ngram.KneserNey([text.learn], SHORT_ORDER, len(text.tokeniser))
    weight = ngram.best_weight(tune_nats, short.nats(text.tune, text.learn))
    before = np.concatenate([text.learn, text.tune])
    mixed = ngram.mixed_nats(held_nats, short.nats(text.held, before), weight)
    uniform = np.full(len(mixed), np.log(len(text.tokeniser)))
    return ngram.mixed_nats(mixed, uniform, 1 - UNIFORM)


def mixer_nats(text: Text, rows: np.ndarray) -> np.ndarray:
    """What the mixer charges for the held-out part: weights from the second part, read twice, then online.

    Args:
        rows: (2, tune + N, V) log-probabilities of the static and the adaptive network.
    """
    counted = text.learn[-MOST_COUNTED:]
    room = len(text.tune) + len(text.held)
    mixer = Mixer(text.tokeniser.pieces, [counted], networks=len(rows), room=room)
    tune_rows, held_rows = np.split(rows, [len(text.tune)], axis=1)
    mixer.price(text.tune, tune_rows)
    mixer.restart()
    mixer.price(text.tune, tune_rows)
    return mixer.price(text.held, held_rows)


def ppmd_bits(known: str, held: str) -> float | None:
    """Bits a character of PPMd after the training parts; none without the package pyppmd."""
    try:
        pyppmd = import_module("pyppmd")
    except ImportError:
        return None
    sizes = []
    for text in (known, known + held):
        encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
        sizes.append(len(encoder.encode(text.encode()) + encoder.flush()))
    return 8.0 * (sizes[1] - sizes[0]) / len(held)


def price(text: Text, arrays: dict, config: Config, p: Language, seed: int, report: Report) -> dict:
    """Bits (N,) of every held-out character, by model."""
    report("pricing the held-out part: counts")
    nats = {f"Kneser-Ney, order {ORDER}": counted_nats(text)}

    report("pricing the held-out part: the network")
    both = np.concatenate([text.tune, text.held])
    static = static_rows(arrays, config, both, text.learn, p.stride)  # (tune + N, V)
    tune_nats, held_nats = np.split(of_symbols(static, both), [len(text.tune)])
    nats["network"] = held_nats
    nats["network, smoothed"] = smoothed_nats(text, tune_nats, held_nats)

    report("pricing the held-out part: the network, which goes on learning")
    sample = corpus.batches([text.learn], 100, 1, config.context, seed)[:, 0]  # (100, T+1)
    reader = AdaptiveReader(arrays, config, sample, p.adapt_rate, p.adapt_stride)
    adaptive = reader.rows(both, text.learn)  # (tune + N, V)
    nats["network, adaptive"] = of_symbols(adaptive, both)[len(text.tune) :]

    report("pricing the held-out part: the mixer")
    nats["mixer"] = mixer_nats(text, np.stack([static, adaptive]))

    extra = escape_bits(text.held_text, text.held)
    return {name: prices / np.log(2) + extra for name, prices in nats.items()}


# --- the command -----------------------------------------------------------------------------------------------------


def check_target(out: Path) -> None:
    """UserError where no file can be written; told before the training, not after it."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; the name of a file is needed")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}")


def train_text(chosen: Params, path: Path, minutes: float, out: Path, report: Report) -> Outcome:
    """Train on a text, save the model, price the held-out part.

    Args:
        minutes: CPU minutes for everything.
        out: file of the model, for `python -m lib generate --model`.
        report: gets a line now and then.

    Raises:
        UserError: the text is of no use, or `out` cannot be written.
    """
    started = time.process_time()
    check_target(out)
    content = read(path)
    text = cut(content)
    training.setup(chosen.threads)
    p = chosen.language
    arm = training.arms(p, len(text.tokeniser))["attention"]
    step_seconds = seconds_a_step(arm.config, arm.recipe, text.learn, chosen.seed)
    spent = time.process_time() - started
    seconds = seconds_for_training(minutes, len(content), spent)
    recipe = replace(arm.recipe, steps=max(1, int(seconds / step_seconds)))
    report(f"{len(content):,} characters, {len(text.tokeniser)} symbols, {recipe.steps:,} steps")
    arrays = train(text, arm.config, recipe, chosen.seed, report)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    training.save_arrays(out, half, arm.config, text.tokeniser.pieces)
    report(f"saved the model as {out}")
    prices = price(text, arrays, arm.config, p, chosen.seed, report)
    unseen = unseen_words(text.known_text, text.held_text)
    ppmd = ppmd_bits(text.known_text, text.held_text)
    if ppmd is not None:
        prices["PPMd"] = np.full(len(text.held), ppmd)  # it has one price for all of the part
    return Outcome(prices, unseen, recipe.steps, time.process_time() - started)


def summary(outcome: Outcome) -> str:
    """What the reader of the command is told at the end."""
    unseen = outcome.unseen
    lines = [f"held-out part, {len(unseen):,} characters, bits a character"]
    lines.append(f"{'':22}{'all':>8}{'unseen words':>14}{'dearest of these':>18}")
    for name, bits in sorted(outcome.prices.items(), key=lambda pair: -pair[1].mean()):
        line = f"{name:22}{bits.mean():8.3f}"
        if name != "PPMd" and unseen.any():
            line += f"{bits[unseen].mean():14.3f}{bits[unseen].max():18.2f}"
        lines.append(line)
    lines.append(f"{outcome.steps:,} steps, {outcome.cpu_seconds / 60:.1f} CPU minutes")
    return "\n".join(lines)
