"""The race of attention and LSTMs at equal parameters, inputs, tuning and CPU seconds; the rule stands in docs/log.md.

`python benchmarks/race.py time` fixes the steps of every arm by interleaved timing on an idle core, `tune` runs the
trials, `train` the five seeds of every arm, `judge` writes benchmarks/race.json. Without a word all four run, one after
the other. Whatever is finished is kept in runs/race and not made again; a training that was stopped goes on from its
checkpoint. `--tiny` tries the whole way in small, in runs/race-tiny.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import recording

from lib.common import data, files, gpu, intervals, params, record, weights

os.environ.setdefault("OMP_NUM_THREADS", "1")
gpu.hide_from_tensorflow()

import tensorflow as tf

from lib.language import corpus, rivals, training
from lib.language.optimiser import Optimiser, Recipe
from lib.language.pricing import nats_of, network, prices

DROPOUTS = (0.15, 0.1, 0.2, 0.3)  # the trials of every arm
TRIAL_SEED = 1000
BASE = "lstm"  # what the others are compared with
RECIPE = Recipe(steps=1, batch=4, average=0.9)  # steps come from the timing


@dataclass(frozen=True)
class Scale:
    """How large the race is."""

    folder: Path
    seconds: float = 390.0  # CPU seconds of a training
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    rounds: int = 12  # of the timing
    steps_a_round: int = 20
    stride: int = 64  # symbols priced per window of 256
    smaller: tuple[tuple[str, int], ...] = ()  # sizes of a network that only tries the code
    held_out: int | None = None  # characters of each part, all by default
    compiled: bool = (
        True  # attention; compiling an LSTM unrolls its loop, which costs more than it saves
    )


FULL = Scale(recording.ROOT / "runs" / "race")
TINY = Scale(
    recording.ROOT / "runs" / "race-tiny",
    seconds=1.0,
    seeds=(1, 2),
    rounds=3,
    steps_a_round=2,
    stride=24,
    smaller=(("width", 16), ("layers", 2), ("heads", 2), ("hidden", 32), ("context", 32)),
    held_out=1500,
    compiled=False,
)


def arms_of(library: corpus.Corpus, scale: Scale) -> dict[str, rivals.Rival]:
    """The arms by name."""
    return rivals.race_arms(len(library.tokeniser), **dict(scale.smaller))


def windows_for(library, arm, steps: int, seed: int) -> np.ndarray:
    """Windows (S, B, T+1) of both training texts: the same for every arm of equal steps."""
    streams = [library.ids(book, "train") for book in training.BOOKS]
    return corpus.batches(streams, steps, RECIPE.batch, arm.context, seed)


def loss_for(arm):
    """Mean price of windows in nats."""

    def loss_of(arrays, windows, key):
        return tf.reduce_mean(nats_of(arrays, windows, arm, key))

    return loss_of


def fresh(arm, seed: int) -> dict[str, tf.Variable]:
    """The variables of an untrained arm."""
    return {name: tf.Variable(array) for name, array in network(arm).init(arm, seed).items()}


def is_compiled(arm, scale: Scale) -> bool:
    """Whether the steps of an arm are compiled."""
    return scale.compiled and arm.kind == "attention"


# --- steps -----------------------------------------------------------------------------------------------------------


class Timed:
    """An arm that takes steps and says how long they took."""

    def __init__(self, arm, library, total: int, scale: Scale):
        params_of_arm = fresh(arm, 0)
        optimiser = Optimiser(params_of_arm, RECIPE)
        self.step = training.make_step(
            params_of_arm, loss_for(arm), optimiser, compiled=is_compiled(arm, scale)
        )
        self.windows = windows_for(library, arm, total, seed=0)
        self.done = 0

    def seconds(self, steps: int) -> float:
        """CPU seconds a step over the next steps."""
        started = time.process_time()
        for _ in range(steps):
            batch = tf.constant(self.windows[self.done])
            self.step(batch, tf.constant(0.1), tf.constant(0), tf.constant(self.done))
            self.done += 1
        return (time.process_time() - started) / steps


def fix_steps(library, scale: Scale) -> dict[str, int]:
    """Steps of every arm that take the race's CPU seconds; measured once, then read."""
    path = scale.folder / "steps.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["steps"]
    total = 1 + scale.rounds * scale.steps_a_round
    timed = {
        name: Timed(arm, library, total, scale) for name, arm in arms_of(library, scale).items()
    }
    for arm in timed.values():
        arm.seconds(1)  # traces and compiles
    seconds = {name: [] for name in timed}
    for _ in range(scale.rounds):
        for name, arm in timed.items():
            seconds[name].append(arm.seconds(scale.steps_a_round))
    steps = {name: round(scale.seconds / np.median(found)) for name, found in seconds.items()}
    files.write_json(path, {"steps": steps, "seconds_a_step": seconds})
    print(steps, flush=True)
    return steps


# --- trainings -------------------------------------------------------------------------------------------------------


def held_out(library, part: str, scale: Scale):
    """(book, ids, what stands before) of both books."""
    for book in training.BOOKS:
        ids = library.ids(book, part)[: scale.held_out]
        yield book, ids, library.before(book, part)


def train(arm, library, steps: int, seed: int, path: Path, parts, scale: Scale) -> dict:
    """Prices of the held-out parts and CPU seconds of one training; read where it is finished."""
    if path.is_file():
        return weights.load(path).arrays
    variables = fresh(arm, seed)
    checkpoint = path.with_suffix(".checkpoint")
    fresh_start = not checkpoint.is_file()
    started = time.process_time()
    losses = training.fit(
        variables,
        loss_for(arm),
        replace(RECIPE, steps=steps),
        windows_for(library, arm, steps, seed),
        seed,
        is_compiled(arm, scale),
        checkpoint,
        config=arm,
    )
    seconds = time.process_time() - started if fresh_start else np.nan  # of a whole training only
    found = {"losses": losses, "cpu_seconds": np.array([seconds])}
    for part in parts:
        for book, ids, before in held_out(library, part, scale):
            name = f"{book}.{part}"
            found[name] = prices(variables, arm, ids, before, stride=scale.stride)
    weights.save(path, found)
    checkpoint.unlink(missing_ok=True)
    print(path.stem, f"{losses[-50:].mean() / np.log(2):.3f}", f"{seconds:.0f} s", flush=True)
    return found


def validation_bits(found: dict) -> float:
    """Mean of both validation parts, bits a character."""
    means = [found[f"{book}.val"].mean() for book in training.BOOKS]
    return float(np.mean(means) / np.log(2))


def tune(library, steps: dict[str, int], scale: Scale) -> dict[str, float]:
    """The dropout of every arm: the best of its trials on the validation parts."""
    chosen = {}
    for name, arm in arms_of(library, scale).items():
        bits = {}
        for dropout in DROPOUTS:
            path = scale.folder / f"trial-{name}-{dropout}.safetensors"
            trial = replace(arm, dropout=dropout)
            half = max(1, steps[name] // 2)
            found = train(trial, library, half, TRIAL_SEED, path, ["val"], scale)
            bits[dropout] = validation_bits(found)
        chosen[name] = min(bits, key=bits.get)
        print(name, bits, flush=True)
    return chosen


def run_all(library, steps, dropouts, scale: Scale) -> dict[str, list[dict]]:
    """Every seed of every arm; the arms take turns, so a disturbed hour disturbs all alike."""
    found = {name: [] for name in steps}
    for seed in scale.seeds:
        for name, arm in arms_of(library, scale).items():
            path = scale.folder / f"{name}-{seed}.safetensors"
            tuned = replace(arm, dropout=dropouts[name])
            parts = ["val", "test"]
            found[name].append(train(tuned, library, steps[name], seed, path, parts, scale))
    return found


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_bits(runs: list[dict]) -> np.ndarray:
    """Bits (S, N) of every character of both test parts, by seed."""
    rows = []
    for run in runs:
        joined = np.concatenate([run[f"{book}.test"] for book in training.BOOKS])
        rows.append(joined / np.log(2))
    return np.stack(rows)


def judge(found: dict[str, list[dict]], block: int) -> dict:
    """The metrics: every arm's price, and its difference to the LSTM over crossed seeds and blocks."""
    bits = {name: test_bits(runs) for name, runs in found.items()}
    metrics = {}
    for name, values in bits.items():
        short = name.replace("-", "_")
        interval = intervals.crossed_mean(values, block=block)
        metrics[f"race_{short}_bpc"] = record.metric(interval, unit="bpc", what=name)
        if name != BASE:
            difference = intervals.crossed_mean(values - bits[BASE], block=block)
            metrics[f"race_{short}_minus_lstm_bpc"] = record.metric(
                difference, unit="bpc", what=f"{name} minus {BASE}, both test parts"
            )
        seconds = [float(run["cpu_seconds"][0]) for run in found[name]]
        if np.isfinite(seconds).any():
            metrics[f"race_{short}_cpu_seconds"] = record.metric(
                float(np.nanmedian(seconds)), unit="s", n=len(seconds), what=f"{name}, a training"
            )
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("until", nargs="?", choices=("time", "tune", "train", "judge"))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    scale = TINY if asked.tiny else FULL
    scale.folder.mkdir(parents=True, exist_ok=True)
    training.setup(1)
    library = training.library_of(data.books())
    steps = fix_steps(library, scale)
    if asked.until == "time":
        return
    dropouts = tune(library, steps, scale)
    if asked.until == "tune":
        return
    found = run_all(library, steps, dropouts, scale)
    if asked.until == "train":
        return
    metrics = judge(found, params.load("full").language.block)
    run = {"profile": "full", "device": "cpu", "seed": scale.seeds[0], "threads": 1}
    run |= {"steps": steps, "dropouts": dropouts, "seeds": list(scale.seeds)}
    target = scale.folder if asked.tiny else recording.FOLDER
    recording.write("race", metrics, run, target)


if __name__ == "__main__":
    recording.run(main)
