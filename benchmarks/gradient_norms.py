"""Gradient norms of every variable at each of 1,000 steps: ours for five seeds, the announced layer and ours without residual for one.

One layer of 128 symbols and width 256 on windows of both books' training parts, batch 4, Adam at 1e-3, dropout 0.1, as
announced. The norms are those of the gradients that the steps use. The price of the validation parts is noted after the
last step, without dropout. Writes benchmarks/gradient_norms.json: the ranges as metrics, and curves for the figure of
notebook 04. About two CPU minutes an arm; no time is measured.
"""

import os
import sys
from pathlib import Path

import numpy as np
import recording

from lib.common import data, record, weights
from lib.language import corpus, gradients, requirements, training

STEPS = 1000
SHOWN = (0, 1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)  # of the curves
SEEDS = {"ours": (0, 1, 2, 3, 4), "ours, no residual": (0,), "announced": (0,)}  # of the trainings
MODELS = {  # prefix of the metrics -> model
    "": requirements.OURS,
    "bare_": requirements.BARE,
    "announced_": requirements.ANNOUNCED,
}


def run_path(model, seed: int) -> Path:
    """Where a finished training is kept, so that a stopped benchmark goes on with the next one."""
    name = model.name.replace(", ", "-").replace(" ", "-")
    return recording.ROOT / "checkpoints" / "gradient_norms" / f"{name}-{seed}.safetensors"


def train(model, library, seed: int) -> None:
    """One training; its norms and its price of the validation parts go to `run_path`."""
    streams = [library.ids(book, "train") for book in training.BOOKS]
    windows = corpus.batches(streams, STEPS, gradients.BATCH, 128, seed)
    flow, arrays = gradients.train_and_watch(model, windows, len(library.tokeniser), seed)
    held = []
    for book in training.BOOKS:
        held.append(corpus.batches([library.ids(book, "val")], 8, gradients.BATCH, 128, seed=5))
    price = gradients.price(model, arrays, np.concatenate(held))
    found = {
        "losses": flow.losses,
        "by_variable": flow.by_variable,
        "by_position": flow.by_position,
    }
    weights.save(run_path(model, seed), found | {"price": np.array([price])})
    print(model.name, seed, flow.by_variable.min(), flow.by_variable.max(), price, flush=True)


def watched(model) -> tuple[list[gradients.Flow], list[float]]:
    """The flow of every finished seed, and the validation price in nats after the last step."""
    names, flows, prices = list(model.init(2)), [], []
    finished = [seed for seed in SEEDS[model.name] if run_path(model, seed).is_file()]
    for seed in finished:
        found = weights.load(run_path(model, seed)).arrays
        flows.append(
            gradients.Flow(names, found["losses"], found["by_variable"], found["by_position"])
        )
        prices.append(float(found["price"][0]))
    return flows, prices


def ranges(prefix: str, name: str, flows, prices) -> dict[str, dict]:
    """Metrics of one model."""
    norms = np.stack([flow.by_variable for flow in flows])  # (seeds, S, P)
    inside = (norms >= gradients.LOWEST) & (norms <= gradients.HIGHEST)
    about = {"n": norms.size, "headline": prefix == ""}
    text = (
        f"{name}: gradient norm of {norms.shape[2]} variables, {STEPS} steps, {len(flows)} seed(s)"
    )
    bits = np.array(prices) / np.log(2)
    return {
        f"{prefix}gradient_norm_min": record.metric(
            norms.min(), what=f"smallest, {text}", band=0.5 * norms.min(), **about
        ),
        f"{prefix}gradient_norm_max": record.metric(
            norms.max(), what=f"largest, {text}", band=0.5 * norms.max(), **about
        ),
        f"{prefix}gradient_norms_share": record.metric(
            inside.mean(), what=f"share within [0.1, 10], {text}", n=norms.size, band=0.02
        ),
        f"{prefix}single_head_bpc": record.metric(
            bits.mean(),
            low=bits.min(),
            high=bits.max(),
            n=len(bits),
            unit="bpc",
            what=f"{name}: validation windows after {STEPS} steps, mean and range of the seeds",
            band=0.05,
        ),
    }


def curves(flows) -> dict:
    """Norms at the shown steps, smallest and largest over the seeds by variable, mean over the seeds by position."""
    by_variable = np.stack([flow.by_variable[list(SHOWN)] for flow in flows])  # (seeds, shown, P)
    by_position = np.stack([flow.by_position[list(SHOWN)] for flow in flows])  # (seeds, shown, T)
    names = flows[0].names
    return {
        "low": {n: rounded(by_variable[:, :, i].min(0)) for i, n in enumerate(names)},
        "high": {n: rounded(by_variable[:, :, i].max(0)) for i, n in enumerate(names)},
        "by_position": [rounded(row) for row in by_position.mean(0)],
    }


def rounded(values) -> list[float]:
    """Four significant digits."""
    return [float(f"{value:.4g}") for value in values]


def main(wanted: list[str]) -> None:
    if wanted == ["write"]:
        return write()
    training.setup(1)
    library = training.library_of(data.books())
    for model in MODELS.values():
        for seed in SEEDS[model.name]:
            if model.name in (wanted or [model.name]) and not run_path(model, seed).is_file():
                train(model, library, seed)
    if not wanted:
        write()


def write() -> None:
    """The record, from all finished trainings."""
    metrics, shown = {}, {"steps": list(SHOWN), "models": {}}
    for prefix, model in MODELS.items():
        flows, prices = watched(model)
        if not flows:
            continue
        metrics |= ranges(prefix, model.name, flows, prices)
        shown["models"][model.name] = curves(flows)
    run = {"profile": "sample", "device": "cpu", "seed": 0, "threads": 1}
    recording.write("gradient_norms", metrics, run, curves=shown)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(
        sys.argv[1:]
    )  # names of models: train these; `write`: only write; none: train what is missing, write
