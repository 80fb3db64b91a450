"""Peak memory of one attention head, plain and in chunks, and of an LSTM of equal width, over lengths of 128 to 8,192.

One window, width 256, float32, one thread. A step is a forward pass and the gradients by input and weights. Memory is
the growth of the resident set during one call, median of three, in a fresh process for each layer and length, whose
malloc hands every block above 64 KiB back at once, so that what is live counts. Finished lengths are kept in
checkpoints/, so that a stopped benchmark goes on. The outputs and gradients of both kinds of
attention are compared on the way, on real text up to 2,048 symbols. Writes benchmarks/attention_memory.json.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import recording

from lib.common import data, files, record
from lib.language import lstm, single_head, training

import tensorflow as tf  # isort: skip

LENGTHS, WIDTH, TURNS = (128, 256, 512, 1024, 2048, 4096, 8192), 256, 3
LENGTHS_OF = {"plain": LENGTHS, "chunked": LENGTHS, "lstm": LENGTHS[:3]}  # an LSTM's is linear


def variables(kind: str) -> list[tf.Variable]:
    """Weights of a layer."""
    rng = np.random.default_rng(0)
    shapes = [(WIDTH, WIDTH)] * 3 if kind != "lstm" else [(WIDTH, 4 * WIDTH)] * 2
    return [tf.Variable((rng.standard_normal(s) * s[0] ** -0.5).astype(np.float32)) for s in shapes]


def run(kind: str, weights, x):
    """One layer over x (1, T, D)."""
    if kind == "lstm":
        wx, wh = weights
        gates = tf.einsum("btd,dk->tbk", x, wx)
        return tf.transpose(lstm.recur(gates, tf.convert_to_tensor(wh)), [1, 0, 2])
    q, k, v = (tf.matmul(x, weight) for weight in weights)
    if kind == "chunked":
        return single_head.attend_in_chunks(q, k, v)
    return single_head.attend(q, k, v)[0]


def step_of(kind: str, length: int):
    """A traced step: x (1, T, D) -> output and gradients by input and weights."""
    weights = variables(kind)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = run(kind, weights, x)
            loss = tf.reduce_mean(tf.square(out))
        return out, *tape.gradient(loss, [x, *weights])

    traced = tf.function(step, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec((1, length, WIDTH)))


def text_input(length: int):
    """Vectors (1, T, D) of the first symbols of a book: those of our layer, positions repeated."""
    library = training.library_of(data.books())
    ids = library.ids("alice29", "train")[:length]
    arrays = single_head.init(len(library.tokeniser))
    places = np.arange(length) % single_head.LENGTH
    x = arrays["symbols"][ids] + arrays["positions"][places]
    return single_head.unit_scale(tf.constant(x[None]))


def resident(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak(kind: str, length: int) -> float:
    """MiB that a step adds to the resident set, median of TURNS; in a process of its own."""
    step_of(kind, 2)(tf.zeros((1, 2, WIDTH)))  # loads kernels and buffers that any call needs
    x, step, grown = text_input(length), step_of(kind, length), []
    for _ in range(TURNS):
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = resident("VmRSS")
        step(x)
        grown.append((resident("VmHWM") - before) / 1024)
    return statistics.median(grown)


def peak_in_a_process(kind: str, length: int) -> float:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, kind, str(length)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(text.stdout.splitlines()[-1])


def measured_peaks() -> dict[str, float]:
    """All peaks in MiB, by "kind length"; those of an earlier, stopped run are taken over."""
    kept = recording.ROOT / "checkpoints" / "attention_memory.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    for kind, lengths in LENGTHS_OF.items():
        for length in lengths:
            if f"{kind} {length}" not in found:
                found[f"{kind} {length}"] = peak_in_a_process(kind, length)
                files.write_json(kept, found)
    return found


def difference(length: int) -> float:
    """Largest difference of outputs and gradients between chunked and plain, over the largest entry of each."""
    x = text_input(length)
    pairs = zip(step_of("chunked", length)(x), step_of("plain", length)(x), strict=True)
    return max(float(tf.reduce_max(tf.abs(a - b)) / tf.reduce_max(tf.abs(b))) for a, b in pairs)


def main() -> None:
    training.setup(1)
    out, found = {}, measured_peaks()
    for kind, lengths in LENGTHS_OF.items():
        for length in lengths:
            value = found[f"{kind} {length}"]
            what = f"peak of a step, {kind}, {length} symbols"
            out[f"head_{kind}_peak_mib_{length}"] = record.metric(
                value, unit="MiB", n=TURNS, band=0.5 * value, what=what
            )
    for kind in ("plain", "chunked"):
        growth = found[f"{kind} 8192"] / found[f"{kind} 1024"]
        out[f"head_{kind}_memory_growth"] = record.metric(
            growth,
            n=TURNS,
            band=0.5 * growth,
            what=f"peak memory, {kind}, 8,192 over 1,024 symbols",
            headline=kind == "chunked",
        )
    worst = max(difference(length) for length in (128, 500, 2048))
    out["head_chunked_difference"] = record.metric(
        worst, n=3, band=1e-5, what="chunked against plain: outputs and gradients, relative"
    )
    run = {"profile": "sample", "device": "cpu", "seed": 0, "threads": 1}
    recording.write("attention_memory", out, run)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    if len(sys.argv) == 3:
        training.setup(1)
        print(json.dumps(peak(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
