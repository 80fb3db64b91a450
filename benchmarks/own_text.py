"""What `python -m lib train-text` makes of three plays: one recorded run, within ten CPU minutes.

The text is the cleaned Hamlet in the spelling of the First Folio, Hamlet, and As You Like It, in this order; the last
tenth, which is held out, is of As You Like It. `--minutes 0.5` tries it quickly. PPMd joins where the package pyppmd is
installed (it is under the LGPL, so it is no dependency). Writes benchmarks/own_text.json.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import recording

from lib.common import data, gpu, intervals, params, record

PLAYS = ("hamlet_folio", "hamlet", "asyoulik")
SHORT = {
    "network": "network",
    "network, smoothed": "smoothed",
    "network, adaptive": "adaptive",
    "mixer": "mixer",
    "Kneser-Ney, order 7": "kneser_ney",
}


def over_blocks(bits: np.ndarray) -> intervals.Interval:
    """The mean of bits (N,) with its interval over contiguous blocks."""
    block = params.load("full").language.block
    return intervals.block_bootstrap(bits, np.ones(len(bits)), block)


def metrics_of(outcome) -> dict:
    """What is recorded: mean prices with intervals over blocks, the difference, unseen words, time."""
    count = len(outcome.unseen)
    found = {}
    for name, short in SHORT.items():
        bits = outcome.prices[name]
        found[f"own_text_{short}_bpc"] = record.metric(over_blocks(bits), unit="bpc", what=name)
        found[f"own_text_{short}_unseen_bits"] = record.metric(
            float(bits[outcome.unseen].mean()),
            unit="bits",
            n=int(outcome.unseen.sum()),
            what=f"{name}: a letter of a word that the training part lacks",
        )
    paid = outcome.prices["network"] - outcome.prices["Kneser-Ney, order 7"]
    found["own_text_network_minus_kneser_ney_bpc"] = record.metric(
        over_blocks(paid), unit="bpc", what="network - Kneser-Ney 7"
    )
    if "PPMd" in outcome.prices:
        bits = float(outcome.prices["PPMd"][0])
        found["own_text_ppmd_bpc"] = record.metric(bits, unit="bpc", n=count, what="PPMd, adaptive")
    for name, short in (("network, smoothed", ""), ("network", "raw_")):
        dearest = float(outcome.prices[name][outcome.unseen].max())
        found[f"own_text_{short}dearest_letter_bits"] = record.metric(
            dearest, unit="bits", n=int(outcome.unseen.sum()), what=f"{name}: dearest such letter"
        )
    found["own_text_cpu_minutes"] = record.metric(
        outcome.cpu_seconds / 60, unit="min", n=1, what="CPU time of everything"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=recording.FOLDER, help="folder of the record")
    asked = parser.parse_args()
    gpu.hide_from_tensorflow()
    from lib.language import corpus, own_text

    chosen = params.load("full")
    books = data.books()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plays.txt"
        path.write_text("\n".join(corpus.clean(books[play]) for play in PLAYS), encoding="utf-8")
        model = Path(folder) / "plays.safetensors"
        outcome = own_text.train_text(
            chosen, path, asked.minutes, model, lambda line: print(line, flush=True)
        )
    print(own_text.summary(outcome))
    run = {"profile": "full", "device": "cpu", "seed": chosen.seed, "threads": chosen.threads}
    run |= {"minutes": asked.minutes, "steps": outcome.steps}
    recording.write("own_text", metrics_of(outcome), run, asked.out)


if __name__ == "__main__":
    recording.run(main)
