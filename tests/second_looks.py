"""Every refutation a second time, by another path: other code, smaller, on the shipped data and on saved outputs.

A slip of units, a wrong axis or a stale file would show: each look must fall on the same side of the announced range as the
recorded number, and near it. Nothing here calls the code that measured it first, but where the docstring says so.
`tests/repository/test_second_looks.py` runs them, `benchmarks/second_looks.py` counts them.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]


class Look(NamedTuple):
    """How to look again, and how near the recorded value it must come."""

    measure: Callable[[], float]
    within: float
    profile: str  # whose recorded value it repeats


LOOKS: dict[str, Look] = {}


def look(*claims: str, within: float, profile: str = "sample"):
    """Register a second look at these claims."""

    def register(measure: Callable[[], float]) -> Callable[[], float]:
        for claim in claims:
            LOOKS[claim] = Look(measure, within, profile)
        return measure

    return register


# --- the images ------------------------------------------------------------------------------------------------------


@cache
def test_images() -> np.ndarray:
    """The first 200 shipped test images (200, 32, 32, 3) in [0, 1], read from the records byte by byte."""
    raw = np.fromfile(ROOT / "data" / "cifar10_sample" / "test.bin", np.uint8)
    records = raw.reshape(-1, 3073)[:200, 1:]
    return records.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / 255.0


@cache
def noisy_images() -> np.ndarray:
    """The same with noise of deviation 0.2 from another generator than the project's, clipped."""
    noise = np.random.RandomState(7).normal(0, 0.2, test_images().shape)
    return np.clip(test_images() + noise, 0, 1)


def mean_decibels(images: np.ndarray) -> float:
    errors = ((images - test_images()) ** 2).reshape(len(images), -1).mean(1)
    return float(np.mean(10 * np.log10(1 / errors)))


@look("mixture-noisy-psnr", within=0.1)
def noisy_psnr() -> float:
    return mean_decibels(noisy_images())


@look("mixture-blur-psnr", within=0.4)
def best_blur() -> float:
    """A Gaussian blur by sums of shifted copies, the best of five widths on these images."""
    return max(mean_decibels(blurred(width)) for width in (0.6, 0.8, 1.0, 1.2, 1.5))


def blurred(width: float) -> np.ndarray:
    reach = 5
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights /= weights.sum()
    images = noisy_images()
    for axis in (1, 2):
        places = [(0, 0)] * 4
        places[axis] = (reach, reach)
        padded = np.pad(images, places, mode="symmetric")
        parts = []
        for shift, weight in enumerate(weights):
            parts.append(weight * np.take(padded, range(shift, shift + 32), axis=axis))
        images = sum(parts)
    return images


@look("mixture-training-images", within=0, profile="full")
def images_left_for_training() -> float:
    """Five batches of 10,000, of which every fifth image is held out."""
    everything = np.arange(5 * 10_000)
    return float(np.sum(everything % 5 != 0))


# --- the announced mixture -------------------------------------------------------------------------------------------


@look("mixture-three-sparsities", within=0)
def experts_that_leave_out_a_key() -> float:
    """Attention of 64 random tokens with and without the limit on keys, by sorting."""
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 64, 32))
    scores = q @ k.T / math.sqrt(32)
    changed = 0
    for keep in (32, 64, 128):
        smallest_kept = np.sort(scores, axis=1)[:, -min(keep, 64)][:, None]
        limited = np.where(scores >= smallest_kept, scores, -np.inf)
        changed += not np.allclose(softmax(limited) @ v, softmax(scores) @ v)
    return float(changed)


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@look("mixture-linear-cost", within=5)
def growth_of_sparse_attention() -> float:
    """Products of 32 numbers: all scores are needed before the 32 largest are known, then 32 values are added up."""
    few, many = (tokens * tokens + tokens * 32 for tokens in (64, 256))
    return many / few


@look("mixture-flops", within=0.7)
def operations_over_one_dense_layer() -> float:
    """Counted by PyTorch's counter on the rebuilt layer (router and merge included) and on its own attention layer."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lib.mixture.announced import MixtureAttention

    tokens = torch.zeros(1, 256, 128)
    dense = torch.nn.MultiheadAttention(128, 4, batch_first=True).train()
    counted = []
    for run in (lambda: MixtureAttention()(tokens), lambda: dense(tokens, tokens, tokens)):
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops())
    return counted[0] / counted[1]


# --- the announced corpus --------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    for mark in "\u2018\u2019\u201c\u201d\u2013\u2014":
        text = text.replace(mark, "")
    return text.lower().split()


@cache
def doubled_words() -> tuple[list[str], list[str]]:
    """Each book twice in a row, the last tenth held out."""
    words = []
    for name in ("alice29", "hamlet"):
        text = (ROOT / "data" / "books" / f"{name}.txt").read_text(encoding="utf-8")
        words += 2 * words_of(text)
    edge = round(0.9 * len(words))
    return words[:edge], words[edge:]


@look("language-held-out", within=0.02)
def held_out_words_seen_before() -> float:
    train, held_out = doubled_words()
    seen = {" ".join(train[i : i + 21]) for i in range(len(train) - 20)}
    joined = train[-20:] + held_out
    found = [" ".join(joined[i : i + 21]) in seen for i in range(len(held_out))]
    return float(np.mean(found))


@look("language-target-means-learning", within=0.1)
def price_of_copying() -> float:
    """19 of 20 on what followed the last eight words, the rest by frequency; words beyond 4,996 are one."""
    train, held_out = doubled_words()
    known = {word for word, _ in Counter(train + held_out).most_common(4996)}
    train = [word if word in known else "?" for word in train]
    held_out = [word if word in known else "?" for word in held_out]
    counts = Counter(train)
    followed = {}
    for i in range(len(train) - 8):
        followed[tuple(train[i : i + 8])] = train[i + 8]
    joined = train[-8:] + held_out
    total = 0.0
    for i, word in enumerate(held_out):
        base = (counts[word] + 1) / (len(train) + 5000)
        guess = followed.get(tuple(joined[i : i + 8]))
        chance = base if guess is None else 0.95 * (guess == word) + 0.05 * base
        total -= math.log(chance)
    return total / len(held_out)


@look("language-corpus-size", within=4)
def size_of_the_books() -> float:
    """The files as they lie on the disk; the record counts text, in which an end of line is one character."""
    books = ROOT / "data" / "books"
    return sum((books / f"{name}.txt").stat().st_size for name in ("alice29", "hamlet")) / 1024


# --- the announced attention layer -----------------------------------------------------------------------------------


def arrays_of_attention(tokens: int) -> int:
    """Bytes of what a forward pass of the layer makes, batch 4, width 256, as arrays."""
    x = np.zeros((4, tokens, 256), np.float32)
    q, k, v = x + 1, x + 2, x + 3
    scores = np.zeros((4, tokens, tokens), np.float32)
    weights, out = scores + 1, x + 4
    return sum(array.nbytes for array in (x, q, k, v, scores, weights, out))


@look("language-counted-memory", within=0.001)
def memory_of_attention() -> float:
    return arrays_of_attention(128) / 2**20


@look("language-memory-over-lstm", within=0.001)
def memory_over_an_lstm() -> float:
    """An LSTM keeps its input, four gates, the cell, its tanh and the output of every step."""
    one = np.zeros((4, 128, 256), np.float32).nbytes
    return arrays_of_attention(128) / (8 * one)


@look("language-memory-scales", within=0.001)
def growth_of_the_memory() -> float:
    return arrays_of_attention(2048) / arrays_of_attention(128)


@look("language-requirement-memory", within=0)
def memory_is_as_announced() -> float:
    return float(arrays_of_attention(128) / 2**20 <= 2.75)


@look("language-operations-attention", within=0.01)
def operations_of_attention() -> float:
    """Three projections, the scores and the sum of values: output elements times the length of their sums."""
    shapes = [(128, 256, 256)] * 3 + [(128, 128, 256), (128, 256, 128)]
    return sum(rows * columns * inner for rows, columns, inner in shapes) / 1e6


@look("language-requirement-operations", within=0)
def operations_are_as_announced() -> float:
    return float(operations_of_attention() <= 4.2)


@look("language-operations-lstm", within=0.01)
def operations_of_an_lstm() -> float:
    """Four gates of 256 from the input and four from the state, at each of 128 steps."""
    return 128 * 4 * 256 * (256 + 256) / 1e6


@cache
def gradient_norms() -> tuple[float, ...]:
    """The seven norms of the announced model's gradient, in PyTorch, with weights of its own, on characters of Alice."""
    import torch

    text = (ROOT / "data" / "books" / "alice29.txt").read_text(encoding="utf-8")
    symbols = {letter: number for number, letter in enumerate(sorted(set(text)))}
    generator = torch.Generator().manual_seed(11)
    starts = torch.randint(0, len(text) - 129, (4,), generator=generator).tolist()
    rows = [[symbols[letter] for letter in text[at : at + 129]] for at in starts]
    windows = torch.tensor(rows)

    def drawn(*shape, std):
        return (std * torch.randn(*shape, generator=generator)).requires_grad_()

    glorot = math.sqrt(2 / (256 + 256))
    size = len(symbols)
    wq, wk, wv = (drawn(256, 256, std=glorot) for _ in range(3))
    table, positions = drawn(size, 256, std=0.029), drawn(128, 256, std=0.029)
    out, bias = drawn(256, size, std=math.sqrt(2 / (256 + size))), drawn(size, std=0.0)
    x = table[windows[:, :-1]] + positions
    scores = (x @ wq) @ (x @ wk).transpose(1, 2) / 16
    later = torch.ones(128, 128).triu(1).bool()
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    logits = weights @ (x @ wv) @ out + bias
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    variables = [wq, wk, wv, table, positions, out, bias]
    return tuple(g.norm().item() for g in torch.autograd.grad(loss, variables))


@look("language-gradients-in-range", within=1)
def norms_in_range() -> float:
    return float(sum(0.1 <= norm <= 10 for norm in gradient_norms()))


@look("language-requirement-gradient-norms", within=0)
def all_norms_in_range() -> float:
    return float(all(0.1 <= norm <= 10 for norm in gradient_norms()))


@look("language-requirements-announced", within=0)
def requirements_that_hold() -> float:
    """Of twelve, one is about the norms; the other eleven have claims of their own or are the layer's form."""
    return 12.0 - (1 - all_norms_in_range())


# --- trained networks of the language study, from their saved prices ---------------------------------------------------


def prices(folder: str) -> dict[str, np.ndarray]:
    return load_file(ROOT / "runs" / "sample" / "language" / folder / "prices.safetensors")


def more_bits(folder: str, than: str, *books: str) -> float:
    """What one network pays more than another, in bits for each character of the test parts."""
    one, other = prices(folder), prices(than)
    nats = 0.0
    characters = 0
    for book in books:
        part = f"{book}.test"
        nats += float(one[part].sum() - other[part].sum())
        characters += len(one[part])
    bits = nats / math.log(2)
    return bits / characters


@look("language-beats-lstm", within=1e-3)
def attention_minus_lstm() -> float:
    return more_bits("attention-0", "lstm-0", "alice29", "hamlet")


@look("language-cross-style-alice", within=1e-3)
def both_books_minus_alice_alone() -> float:
    return more_bits("ablations/small-0", "ablations/only-alice29-0", "alice29")


@look("language-cross-style-hamlet", within=1e-3)
def both_books_minus_hamlet_alone() -> float:
    return more_bits("ablations/small-0", "ablations/only-hamlet-0", "hamlet")


# --- the announced EM graph ------------------------------------------------------------------------------------------


@look("em-memory", within=1)
def kilobytes_of_the_histories() -> float:
    """2,010 steps, each with four weights, one loss and two parameters of eight bytes."""
    history = [np.zeros(4), np.zeros(1), np.zeros(2)]
    return 2010 * sum(entry.nbytes for entry in history) / 1000


@look("em-parameters-inert", within=0)
def parameters_without_effect() -> float:
    """Each of nine parameters is doubled; sigma and tau are followed for 30 steps. Uses the rebuilt rules."""
    names = {"sigma": 0.2, "tau": 0.1, "radius": 8, "sigma_s": 9, "sigma_f": 0.2}
    names |= {"learning_rate": 0.01, "smoothing_window": 5, "embed_dim": 64, "attention_heads": 4}
    plain = followed(names)
    same = 0
    for name in names:
        moved = followed(names | {name: 1.5 * names[name]})
        same += moved == plain
    return float(same)


def followed(parameters: dict) -> list[tuple[float, float]]:
    from lib.diffusion.announced import ParameterLearning

    rules = ParameterLearning(**parameters)
    losses = np.random.default_rng(2).uniform(0.1, 0.3, 30)
    path = []
    for loss in losses:
        rules.update_global_params(loss, [0.8, 0.3, 0.6, 0.5])
        path.append((rules.sigma, rules.tau))
    return path


@look("em-worked-example", within=1e-3)
def error_of_the_worked_example() -> float:
    shares = [math.exp(2 * score) for score in (0.8, 0.3, 0.6, 0.5)]
    told = (0.45, 0.10, 0.30, 0.15)
    return max(abs(s / sum(shares) - t) for s, t in zip(shares, told, strict=True))


@look("em-heads-differ", within=1e-9)
def texture_minus_colour() -> float:
    """Both scores are the mean deviation of a patch's values over 0.1, cut at one: one formula, computed in two ways."""
    worst = 0.0
    for image in test_images()[:20]:
        cut = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::5, ::5, 0]
        values = cut.reshape(-1, 192)
        texture = min(1.0, float(np.sqrt(values.var(axis=1)).mean()) / 0.1)
        squares = (values**2).mean(axis=1) - values.mean(axis=1) ** 2
        colour = min(1.0, float(np.sqrt(np.maximum(squares, 0)).mean()) / 0.1)
        worst = max(worst, abs(texture - colour))
    return 0.0 if worst < 1e-6 else worst


@look("em-convergence", within=0.01)
def growth_on_a_flat_image() -> float:
    """The graph of 25 equal patches on a grid of stride 5, edge by edge, and its largest eigenvalue."""
    centres = [(y, x) for y in range(4, 29, 5) for x in range(4, 29, 5)]
    matrix = np.zeros((25, 25))
    for i, (y, x) in enumerate(centres):
        for j, (other_y, other_x) in enumerate(centres):
            apart = (y - other_y) ** 2 + (x - other_x) ** 2
            if 0 < apart <= 100:
                weight = math.exp(-apart / 200)
                matrix[i, j] -= weight
                matrix[i, i] += weight
    return abs(1 - 0.3 * float(np.linalg.eigvals(matrix).real.max()))


@look("em-denoises", within=1e-6)
def gain_of_the_announced_filter() -> float:
    """At noise 0.2 no two patches are alike enough for an edge that the filter acts on, so nothing changes."""
    for image in noisy_images()[:20]:
        cut = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::5, ::5, 0]
        values = cut.reshape(-1, 192)
        for i, one in enumerate(values):
            squares = ((values - one) ** 2).sum(axis=1)
            squares[i] = np.inf
            if np.exp(-squares / (2 * 0.3**2)).sum() > 1e-8:
                return math.nan
    return 0.0


@cache
def saved_errors() -> dict:
    """Squared errors and PSNR of each image, as notebook 02 saved them."""
    path = ROOT / "results" / "sample" / "02_em_diffusion" / "errors.json"
    return json.loads(path.read_text())


def percent_saved(arm: str, than: str) -> float:
    loop = saved_errors()["loop"]
    return 100 * (1 - sum(loop[arm]) / sum(loop[than]))


@look("em-graph-loss", within=0.01)
def saved_by_the_graph() -> float:
    return percent_saved("graph", "none")


@look("em-em-loss", within=0.01)
def saved_by_em() -> float:
    return percent_saved("graph + EM", "graph")


@look("em-attention-loss", within=0.01)
def saved_by_the_heads() -> float:
    return percent_saved("graph + EM + heads", "graph + EM")


@look("em-quality", within=0.01)
def saved_by_all() -> float:
    return percent_saved("graph + EM + heads", "none")


@look("em-classes", within=1e-4)
def gain_by_classes() -> float:
    saved = saved_errors()["classes"]
    gains = [one - other for one, other in zip(saved["special"], saved["shared"], strict=True)]
    return sum(gains) / len(gains)


@look("em-lines", within=0)
def announced_lines_that_are_true() -> float:
    """The published program has as many lines as were counted in a clone of it (benchmarks/announced_originals.py)."""
    counted = counted_lines()["enhancedlibcem.py"]
    return float(sum(counted == told for told in (2114, 2180)))


@look("language-source-lines", within=0)
def modules_with_more_lines_than_told() -> float:
    told = {
        "scaled_dot_product_attention.py": 625,
        "attention_validator.py": 450,
        "demo_attention_concept.py": 400,
        "attention_architecture_doc.py": 320,
    }
    counted = counted_lines()
    return float(sum(counted[name] > lines for name, lines in told.items()))


def counted_lines() -> dict[str, int]:
    """File name -> lines, read from the table of the script as text."""
    import re

    text = (ROOT / "benchmarks" / "announced_originals.py").read_text()
    found = re.findall(r'"(?:[\w/]+/)?(\w+\.py)",\s*"lines",\s*"[^"]+",\s*([\d_]+)', text)
    return {name: int(number) for name, number in found}
