"""Milliseconds an image of the graph and of scikit-image's NLM in one process: `python benchmarks/em_speed.py`.

Every method takes its turn in every round, so that a busy machine slows them alike. A time is that of the fastest
round, the one least disturbed by other work; a ratio is the median over rounds. One and two threads (NLM has one), 32
to 512 pixels, and the announced update rules on a batch. The whole denoiser and its parts are in em_cost.py; CBM3D,
some 2 s an image, stands beside NLM and ours in em_cbm3d.py. Writes benchmarks/em_speed.json and the growth with the image's size, benchmarks/em_growth.png.
"""

import statistics
import time

import matplotlib.pyplot as plt
import numba
import numpy as np
import recording
from skimage.restoration import denoise_nl_means

from lib.common import data, figures, params, record
from lib.diffusion import announced, denoiser, graph

SIGMA, BATCH, ROUNDS, SIZES = 0.1, 50, 9, (32, 64, 128, 256, 512)
THREADS = (1, 2)


def nlm(images):
    for image in images:
        denoise_nl_means(
            image,
            h=0.6 * SIGMA,
            sigma=SIGMA,
            patch_size=5,
            patch_distance=6,
            fast_mode=True,
            channel_axis=0,
        )


def texture(images, level):
    """The texture head alone: features, weights, patch-wise average."""
    s, noise = level.settings, np.full((len(images), *images.shape[2:]), SIGMA**2, np.float32)
    feat = graph.features(images, graph.filter_bank(3, 9))
    walk = graph.edge_weights(
        feat, noise, sigma_f=s.sigma_f, sigma_s=s.sigma_s, radius=s.radius, patch=3
    )
    return graph.apply(walk, images, s.radius)


def announced_rules(images):
    state = announced.ParameterLearning()
    for image in images:
        state.update_global_params(0.2, announced.compute_patch_features(*announced.patches(image)))


def round_ms(calls, count, rounds=ROUNDS):
    """Milliseconds an image of each call, a list over rounds in which all take turns."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first compiles
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start) / count)
    return {name: found[1:] for name, found in times.items()}


def threaded(threads, images, level):
    numba.set_num_threads(threads)
    texture(images, level)


def growth(out):
    """Save the milliseconds of one image over its side."""
    figures.style()
    figure, axis = plt.subplots(figsize=(5, 3))
    for stem, label in (
        ("graph_1", "graph, one thread"),
        ("graph_2", "graph, two threads"),
        ("nlm", "NLM, one thread"),
    ):
        axis.loglog(
            SIZES, [out[f"em_{stem}_ms_size_{size}"]["value"] for size in SIZES], "o-", label=label
        )
    axis.set(xlabel="pixels a side", ylabel="ms an image", xticks=SIZES, xticklabels=SIZES)
    axis.minorticks_off()
    axis.legend()
    figures.save(figure, params.root() / "benchmarks", "em_growth")


def main():
    test, _ = data.load_cifar("test")
    noisy = data.add_noise((test[:BATCH] / 255).astype(np.float32), SIGMA, 11)
    rows = noisy.transpose(0, 2, 3, 1)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    level, out = model.level(SIGMA), {}

    def add(name, value, what, n=ROUNDS, headline=False, unit="ms"):
        out[name] = record.metric(value, unit=unit, n=n, what=what, headline=headline)
        print(f"{name:32} {value:9.3f} {unit}  {what}", flush=True)

    for threads in THREADS:
        numba.set_num_threads(threads)
        calls = {
            "graph": lambda: texture(noisy, level),
            "nlm": lambda: nlm(noisy),
            "rules": lambda: announced_rules(rows[:32]),
        }
        found = round_ms(calls, 1)
        count = {"graph": BATCH, "nlm": BATCH, "rules": 1}
        for name, times in found.items():
            what = (
                "announced rules, batch of 32"
                if name == "rules"
                else f"{name}, 32 pixels, an image"
            )
            add(f"em_{name}_ms_{threads}", min(times) / count[name], f"{what}, threads: {threads}")
    fastest = min(found["graph"]) / BATCH
    add(
        "em_ms_per_image",
        fastest,
        "patch-wise graph with its features, 32 px, two threads",
        headline=True,
    )
    ratio = statistics.median(a / b for a, b in zip(found["nlm"], found["graph"], strict=True))
    add(
        "em_nlm_speed_ratio",
        ratio,
        "time of scikit-image NLM over ours, same process",
        headline=True,
        unit="",
    )
    add(
        "em_rules_batch_ms",
        min(found["rules"]),
        "the announced attention update for all 32 images of a batch",
    )
    for size in SIZES:
        big = np.tile(noisy[:1], (1, 1, size // 32, size // 32))
        calls = {t: lambda b=big, t=t: threaded(t, b, level) for t in THREADS}
        found = round_ms({**calls, "nlm": lambda b=big: nlm(b)}, 1, 5)
        for t in THREADS:
            add(
                f"em_graph_{t}_ms_size_{size}",
                min(found[t]),
                f"graph, one image of {size} pixels, threads: {t}",
                5,
            )
        add(
            f"em_nlm_ms_size_{size}",
            min(found["nlm"]),
            f"scikit-image NLM, one image of {size} pixels",
            5,
        )
    growth(out)
    threads = numba.get_num_threads()
    recording.write("em_speed", out, {"device": "cpu", "seed": 11, "threads": threads})


if __name__ == "__main__":
    main()
