"""What attention, EM, graph and the second pass are worth in the full denoiser: `python benchmarks/em_worth.py`.

Each is left out and the maps are fitted again, on fewer training images than the shipped ones, all variants on the
same: without attention the heads have one set of weights; without EM there is one map instead of 64; without the graph
the maps see the noisy window alone. Measured on test images, paired. Writes benchmarks/em_worth.json.
"""

import dataclasses

import numba
import numpy as np
import recording

from lib.common import data, intervals, params, quality, record
from lib.diffusion import denoiser, fit, gate_training, heads

TRAIN, TEST, NOISE_SEED = 1000, 300, 11
LEFT_OUT = {
    "attention": "one set of weights for the heads",
    "em": "one map in place of 64",
    "graph": "no heads, the noisy window alone",
}


def one_component(prior):
    """A prior with one component: every window gets the same map."""
    first = slice(0, 1)
    return dataclasses.replace(
        prior,
        weights=np.ones(1),
        means=prior.means[first],
        vectors=prior.vectors[first],
        values=prior.values[first],
    )


def answers(model, sigma, training, test, without=None):
    """First and second answers (B, 3, H, W) to noisy test images by maps fitted on (clean, noisy) training images."""
    level = model.level(sigma)
    pilots = [pilot_of(model, noisy, sigma, without) for noisy in (training[1], test)]
    prior = one_component(model.prior) if without == "em" else model.prior
    passes = denoiser.fit_passes(
        prior, *training, pilots[0], sigma, left=level.passes.left, ridge=fit.RIDGE
    )
    changed = dataclasses.replace(level, passes=passes)
    return denoiser.Denoiser(prior, {sigma: changed}).both_passes(test, sigma, pilots[1])


def pilot_of(model, noisy, sigma, without):
    """The pilot of a variant; without the graph a constant, from which no map can learn."""
    if without == "graph":
        return np.full_like(noisy, 0.5)
    if without != "attention":
        return model.pilot(noisy, sigma)
    level = model.level(sigma)
    outputs = gate_training.all_heads(noisy, sigma, level.settings)
    return heads.unclip(gate_training.pilot_of(outputs, level.weights), sigma)


def main():
    numba.set_num_threads(1)
    model = denoiser.load(params.root() / "models" / "em_denoiser.safetensors")
    raw, _ = data.load_cifar("train")
    raw_test, _ = data.load_cifar("test")
    index, _ = data.split(len(raw), 0)
    clean = (raw[index[:TRAIN]] / 255).astype(np.float32)
    spread = np.linspace(0, len(raw_test) - 1, TEST).astype(int)
    exam = (raw_test[spread] / 255).astype(np.float32)
    out = {}
    for sigma in model.levels:
        training = (clean, data.add_noise(clean, sigma, fit.NOISE_SEED))
        test = data.add_noise(exam, sigma, NOISE_SEED, indices=spread)
        first, second = answers(model, sigma, training, test)
        whole = quality.psnr(exam, second)
        key = round(100 * sigma)
        rows = {"two_pass": ("the second pass", quality.psnr(exam, first))}
        for without, what in LEFT_OUT.items():
            left = answers(model, sigma, training, test, without)[1]
            rows[without] = (f"{without} ({what})", quality.psnr(exam, left))
        for name, (what, psnr) in rows.items():
            gain = intervals.paired_difference(whole, psnr)
            out[f"em_worth_{name}_db_{key}"] = record.metric(
                gain, unit="dB", band=0.02, what=f"worth of {what}, noise {sigma}"
            )
            print(
                f"{sigma} {name:10} {gain.mean:+.3f} [{gain.low:.3f}, {gain.high:.3f}]", flush=True
            )
    recording.write("em_worth", out, {"device": "cpu", "seed": NOISE_SEED, "threads": 1})


if __name__ == "__main__":
    recording.run(main)
