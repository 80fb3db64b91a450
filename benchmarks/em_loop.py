"""The announced loop on noisy images: every rung and every control, at three noise levels: `python benchmarks/em_loop.py`.

Trains each arm with each seed and keeps what came out under checkpoints/em_loop/, so that a run that was cut off goes
on and several processes may share the work (`--sigma 0.1 --seeds 0,1 --arms "graph + EM"`); then writes
benchmarks/em_loop.json from all that is there. Needs all of CIFAR-10 (`python -m lib data fetch`). A seed changes the
training images, their noise, the initial encoder and codes, the order of the batches and the gate's start.
"""

import argparse
import itertools
import json
import time

import numba
import numpy as np
import recording
import torch

from lib.common import data, files, intervals, params, record
from lib.diffusion import loop, tokens

RUNS = (  # noise deviation, arms, seeds
    (0.1, loop.RUNGS, (0, 1, 2, 3, 4)),
    (0.1, loop.CONTROLS, (0, 1)),
    (0.05, loop.RUNGS, (0,)),
    (0.2, loop.RUNGS, (0,)),
)
STEPS, AT = 60, (0, 5, 10, 20, 30, 40, 50, 60)
TRAIN, VALIDATE, TEST = 2000, 60, 300  # images
TEST_NOISE, VALIDATION_NOISE = 11, 5
ADAM = 0.1  # rate of the control by gradient, the better of 0.03 and 0.1 on validation images
DRAWS = 2000  # of the bootstrap

# rung, the one below, key, announced cut in percent
LADDER = (
    ("graph", "tokens only", "noisy_graph", 20),
    ("graph + EM", "graph", "em", 25),
    ("graph + EM + heads", "graph + EM", "heads", 7),
)
CONTROLS = (
    ("graph + EM", "no tokens", "tokens"),
    ("graph + EM", "graph + gradient", "em_over_gradient"),
    ("graph + EM + heads", "uniform heads", "heads_over_uniform"),
    ("graph + EM + heads", "random heads", "heads_over_random"),
)


def images_of(seed, noise, few=None):
    """Training, validation and test Pairs of one seed; the two latter are the same for all seeds."""
    raw, _ = data.load_cifar("train", "full")
    test, _ = data.load_cifar("test", "full")
    training, validating = data.split(len(raw), 0)
    drawn = np.random.default_rng([seed, 1]).choice(training, few or TRAIN, replace=False)
    spread = np.linspace(0, len(test) - 1, few or TEST).astype(int)
    return (
        pairs(raw[drawn], noise, 100 + seed),
        pairs(raw[validating[: few or VALIDATE]], noise, VALIDATION_NOISE),
        pairs(test[spread], noise, TEST_NOISE, spread),
    )


def pairs(raw, noise, seed, indices=None):
    """Clean and noisy images from bytes (N, 3, 32, 32)."""
    clean = (raw / 255).astype(np.float32)
    return loop.Pairs(clean, data.add_noise(clean, noise, seed, indices=indices))


def run(arm, seed, noise, folder, adam=ADAM):
    """Train one arm and keep its errors (2, TEST), at 64 and 32 pixels, and its history."""
    path = folder / f"{arm.replace(' ', '_')}-{noise}-{seed}.json"
    if path.is_file():
        return
    training, validation, test = images_of(seed, noise)
    initial = tokens.start(tokens.to_loop(training.noisy[:800]), seed)
    net, part, history = loop.train(
        arm,
        training,
        validation,
        noise=noise,
        steps=STEPS,
        seed=seed,
        initial=initial,
        at=AT,
        adam=adam,
    )
    found = loop.errors(net, part, test)
    files.write_json(
        path,
        {
            "errors": found.tolist(),
            "history": history,
            "filters": {head: vars(p) for head, p in part.filters.items()},
            "deviations": np.sqrt(part.variance).tolist(),
        },
    )
    print(
        f"{arm}, noise {noise}, seed {seed}: {found.mean(1)}, {history[-1]['seconds']:.0f} s",
        flush=True,
    )


def read(noise, folder):
    """What `run` kept at one noise level: a list over seeds, by arm."""
    found = {}
    for level, arms, seeds in RUNS:
        for arm in arms if level == noise else ():
            stem = arm.replace(" ", "_")
            paths = [folder / f"{stem}-{noise}-{seed}.json" for seed in seeds]
            found[arm] = [json.loads(path.read_text()) for path in paths]
    return found


def saved(above, below, side):
    """Percent of squared error that one arm saves against another, (low, high) by seeds and images together.

    `above` and `below` hold results by seed, of which those that both have count; `side` is 0 for 64 pixels, 1 for 32.
    """
    both = min(len(above), len(below))
    better, worse = (
        np.array([result["errors"][side] for result in results[:both]])
        for results in (above, below)
    )  # (seeds, images)
    rng = np.random.default_rng(0)
    draws = np.empty(DRAWS)
    for draw in range(DRAWS):
        seeds = rng.integers(len(better), size=len(better))
        images = rng.integers(better.shape[1], size=better.shape[1])
        cells = np.ix_(seeds, images)
        draws[draw] = 100 * (1 - better[cells].mean() / worse[cells].mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    each = 100 * (1 - better.mean(1) / worse.mean(1))  # (seeds,)
    mean = 100 * (1 - better.mean() / worse.mean())
    spread = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    return intervals.Interval(float(mean), float(low), float(high), better.size, spread), each


def needed(faster, slower, column):
    """Percent of a column ("step", "seconds") saved to the worse of two final validation errors, for one seed."""
    goal = max(faster["history"][-1]["mse"], slower["history"][-1]["mse"])
    first, second = (reached(result["history"], goal, column) for result in (faster, slower))
    return 100 * (1 - first / max(second, 1e-9))


def reached(history, goal, column):
    """Where a history first comes down to the goal, by straight lines between its points."""
    for before, after in itertools.pairwise(history):
        if history[0]["mse"] <= goal:
            return history[0][column]
        if after["mse"] <= goal:
            share = (before["mse"] - goal) / (before["mse"] - after["mse"])
            return before[column] + share * (after[column] - before[column])
    return history[-1][column]


def summarise(folder):
    """All metrics, from what the runs kept."""
    out = {}
    for noise in dict.fromkeys(noise for noise, _, _ in RUNS):
        level = f"_{round(100 * noise)}"
        results = read(noise, folder)
        test = images_of(0, noise)[2]
        noisy = loop.squared_errors(torch.from_numpy(test.noisy), torch.from_numpy(test.clean))
        for side, pixels in enumerate((64, 32)):
            add_errors(out, results, noisy[side].numpy(), f"{level}_{pixels}", noise, pixels)
            add_cuts(
                out, results, side, "" if (noise, pixels) == (0.1, 64) else f"{level}_{pixels}"
            )
        if noise == 0.1:
            add_speed(out, results)
    return out


def add_errors(out, results, noisy, end, noise, pixels):
    """Squared errors of every arm and of the noisy input."""
    text = f"squared error in [-1, 1] at {pixels} pixels, noise {noise}"
    out[f"em_loop_noisy_mse{end}"] = record.metric(
        intervals.bootstrap_mean(noisy), what=f"noisy input, {text}", band=1e-4
    )
    for arm, found in results.items():
        values = np.mean([result["errors"][0 if pixels == 64 else 1] for result in found], axis=0)
        out[f"em_loop_{key(arm)}_mse{end}"] = record.metric(
            intervals.bootstrap_mean(values), what=f"{arm}, {text}", band=5e-4
        )


def add_cuts(out, results, side, end):
    """What each rung saves against the one below, and what the controls take from that."""
    pairs_of_arms = [(above, below, name) for above, below, name, _ in LADDER] + list(CONTROLS)
    for above, below, name in pairs_of_arms:
        if below not in results:
            continue
        cut, each = saved(results[above], results[below], side)
        what = f"saved by {above} against {below}"
        headline = end == "" and name in ("noisy_graph", "em", "heads", "tokens")
        stem = f"em_loop_{name}_saved"
        out[f"{stem}{end}"] = record.metric(cut, unit="%", what=what, band=2, headline=headline)
        for seed, value in enumerate(each):
            out[f"{stem}{end}_seed_{seed}"] = record.metric(
                value, unit="%", n=len(results[above][seed]["errors"][side]), band=2, what=what
            )
        if end == "":
            for edge, value in (("low", cut.low), ("high", cut.high)):
                out[f"{stem}_{edge}"] = record.metric(
                    value,
                    unit="%",
                    n=cut.n,
                    band=2,
                    what=f"{what}, {edge} end",
                    headline=(name, edge) == ("heads", "low"),
                )


def add_speed(out, results):
    """Steps and CPU seconds to the same validation error, and the curves."""
    for above, below, name, _ in LADDER[1:]:
        for column in ("step", "seconds"):
            values = [
                needed(*both, column) for both in zip(results[above], results[below], strict=True)
            ]
            stem = f"em_loop_{name}_{'steps' if column == 'step' else column}_saved"
            what = f"{column}s saved to the worse validation error, {above} against {below}"
            out[stem] = record.metric(
                float(np.mean(values)),
                unit="%",
                n=len(values),
                sd=float(np.std(values, ddof=1)),
                band=15,
                what=what.replace("secondss", "CPU seconds"),
                headline=stem == "em_loop_em_steps_saved",
            )
    for arm, found in results.items():
        for point, step in enumerate(AT):
            rows = [result["history"][point] for result in found]
            for name, unit, band in (("mse", "", 1e-3), ("seconds", "s", 1e3)):
                out[f"em_loop_{key(arm)}_{name}_step_{step}"] = record.metric(
                    float(np.mean([row[name] for row in rows])),
                    unit=unit,
                    n=len(rows),
                    band=band,
                    what=f"{arm}, {'validation error' if name == 'mse' else 'CPU'}, step {step}",
                )


def key(arm):
    """An arm's name in a metric's name."""
    return arm.replace(" + ", "_").replace(" ", "_")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sigma", type=float, help="this noise level only")
    parser.add_argument("--seeds", help="these seeds only, with commas")
    parser.add_argument("--arms", help="these arms only, with commas")
    parser.add_argument("--folder", default="checkpoints/em_loop", help="where results are kept")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    folder = params.root() / asked.folder
    start = time.process_time()
    for noise, arms, seeds in RUNS:
        for seed in seeds:
            for arm in arms:
                if (
                    asked.sigma in (None, noise)
                    and (not asked.seeds or str(seed) in asked.seeds.split(","))
                    and (not asked.arms or arm in asked.arms.split(","))
                ):
                    run(arm, seed, noise, folder)
    if asked.sigma or asked.seeds or asked.arms:
        return
    out = summarise(folder)
    print(f"{len(out)} metrics, {time.process_time() - start:.0f} CPU s in this process")
    recording.write("em_loop", out, {"device": "cpu", "seed": 0, "threads": 1})


if __name__ == "__main__":
    recording.run(main)
