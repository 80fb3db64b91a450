"""CPU milliseconds of each part of the EM denoiser for one image: `python benchmarks/em_cost.py`.

One thread. All parts take turns in every round, so that a busy machine slows them alike; a time is CPU time of the
process, the least of the rounds, after one round that compiles. Images of 32 to 256 pixels; the larger ones are
tiled from noisy test images. Writes benchmarks/em_cost.json.
"""

import time

import numba
import numpy as np
import recording

from lib.common import data, params, record
from lib.diffusion import denoiser, experts, gates, heads

SIGMA, SIZES, IMAGES, ROUNDS = 0.1, (32, 64, 128, 256), {32: 50, 64: 12, 128: 3, 256: 1}, 5


def parts(model, noisy):
    """Each part of the denoiser as a call without arguments, on inputs that are there already."""
    level = model.level(SIGMA)
    gate = level.gates["clean"][0]
    small = level.gates["sure"][0]
    outputs = heads.head_outputs(noisy, SIGMA, level.settings)
    found, _ = gates.features(noisy, outputs, SIGMA)
    pilot = heads.unclip(gate.attend(noisy, outputs, SIGMA)[1], SIGMA)
    first, _ = model.both_passes(noisy, SIGMA, pilot)
    chosen = experts.choose(model.prior, noisy, SIGMA)
    again = experts.choose(model.prior, first, level.passes.left)
    return {
        "four heads": lambda: heads.head_outputs(noisy, SIGMA, level.settings),
        "features of the gate": lambda: gates.features(noisy, outputs, SIGMA),
        "gate, clean": lambda: gate.attend_features(found, outputs),
        "gate, SURE": lambda: small.attend_features(found, outputs),
        "first choice": lambda: experts.choose(model.prior, noisy, SIGMA, denoiser.SHORTLIST),
        "first maps": lambda: experts.answer(
            model.prior, level.passes.first, [noisy, pilot], chosen
        ),
        "second choice": lambda: experts.choose(
            model.prior, first, level.passes.left, denoiser.SHORTLIST
        ),
        "second maps": lambda: experts.answer(
            model.prior, level.passes.second, [noisy, pilot, first], again
        ),
        "whole denoiser": lambda: model.denoise(noisy, SIGMA),
    }


def least(calls, count):
    """CPU milliseconds an image of each call: the least over rounds in which all take turns."""
    times = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - start) / count)
    return {name: min(found[1:]) for name, found in times.items()}


def main():
    numba.set_num_threads(1)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    test, _ = data.load_cifar("test")
    noisy = data.add_noise((test[:50] / 255).astype(np.float32), SIGMA, 11)
    out = {}
    for size in SIZES:
        count = IMAGES[size]
        tiled = np.tile(noisy[:count], (1, 1, size // 32, size // 32))
        for name, value in least(parts(model, tiled), count).items():
            key = name.lower().replace(", ", "_").replace(" ", "_")
            out[f"em_{key}_cost_ms_{size}"] = record.metric(
                value, unit="ms", n=ROUNDS, what=f"{name}, CPU for an image of {size} pixels"
            )
            print(f"{size:4} {name:24} {value:8.2f} ms", flush=True)
    recording.write("em_cost", out, {"device": "cpu", "seed": 11, "threads": 1})


if __name__ == "__main__":
    recording.run(main)
