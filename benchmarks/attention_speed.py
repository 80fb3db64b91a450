"""Our attention beside Keras MultiHeadAttention and an LSTM, and generation with and without a cache.

Batch 4, width 256, one head, an output projection, no biases (262,144 parameters in both attention layers; the LSTM
of equal width has 525,312), float32, one thread. Time is CPU time of a forward pass and of a step (gradients by
weights and input), the layers taking turns in one process, median over the turns. Memory is the growth of the
resident set during one call, median over the turns, in a fresh process per layer whose malloc hands every block
above 64 KiB back at once (with malloc's own thresholds, what it kept from earlier calls hid up to half of the peak
of a small call). Ratios are to ours: above 1 the other one costs more. Writes benchmarks/attention_speed.json.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import recording

from lib.common import record
from lib.language import causal, lstm, training
from lib.language.symbols import Config

import tensorflow as tf  # isort: skip

BATCH, WIDTH, LENGTHS, TURNS = 4, 256, (128, 256, 512, 1024, 2048), 5
KINDS = ("attention", "keras", "lstm")


def layer(kind: str):
    """A function of (B, T, D) and its variables."""
    rng = np.random.default_rng(0)

    def weight(*shape):
        return tf.Variable((rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32))

    if kind == "keras":
        built = tf.keras.layers.MultiHeadAttention(1, WIDTH, use_bias=False)
        built(tf.zeros((1, 2, WIDTH)), tf.zeros((1, 2, WIDTH)))
        return lambda x: built(x, x, use_causal_mask=True), [
            v.value for v in built.trainable_variables
        ]
    if kind == "lstm":
        wx, wh, bias = (
            weight(WIDTH, 4 * WIDTH),
            weight(WIDTH, 4 * WIDTH),
            tf.Variable(tf.zeros(4 * WIDTH)),
        )

        def recurrent(x):
            z = tf.einsum("btd,dk->tbk", x, wx) + bias
            return tf.transpose(lstm.recur(z, tf.convert_to_tensor(wh)), [1, 0, 2])

        return recurrent, [wx, wh, bias]
    wq, wk, wv, wo = (weight(WIDTH, WIDTH) for _ in range(4))

    def attention(x):
        q, k, v = (
            tf.expand_dims(causal.linear(x, w), 1) for w in (wq, wk, wv)
        )  # its gradient is a view, not a copy
        return causal.linear(tf.squeeze(causal.attend_in_blocks(q, k, v), 1), wo)

    return attention, [wq, wk, wv, wo]


def calls(kind: str, length: int):
    """Traced functions: forward and step."""
    fn, weights = layer(kind)
    spec = tf.TensorSpec((BATCH, length, WIDTH))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            price = tf.reduce_mean(tf.square(fn(x)))
        return tape.gradient(price, [x, *weights])

    graphs = {"forward": fn, "step": step}
    return {
        name: tf.function(g, autograph=False).get_concrete_function(spec)
        for name, g in graphs.items()
    }


def cpu_seconds(call, *args, least: float = 0.05) -> float:
    """CPU seconds per call, over as many calls as fill `least`."""
    count, start = 0, time.process_time()
    while time.process_time() - start < least:
        call(*args)
        count += 1
    return (time.process_time() - start) / count


def times(length: int) -> dict:
    """Median CPU seconds per kind and call, the kinds taking turns."""
    x = tf.random.stateless_normal((BATCH, length, WIDTH), [0, 0])
    graphs = {(kind, name): g for kind in KINDS for name, g in calls(kind, length).items()}
    found = {key: [] for key in graphs}
    for _ in range(TURNS + 1):
        for key, graph in graphs.items():
            found[key].append(cpu_seconds(graph, x))
    return {key: values[1:] for key, values in found.items()}  # the first turn warms up


def resident(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def memory_of(kind: str) -> dict[str, float]:
    """MiB that a forward pass and a step add to the resident set, median of TURNS; in a process of its own."""
    found = {}
    for length in (2, *LENGTHS):  # the first loads kernels and buffers that any call needs
        x = tf.random.stateless_normal((BATCH, length, WIDTH), [0, 0])
        for name, graph in calls(kind, length).items():
            grown = []
            for _ in range(TURNS):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
                before = resident("VmRSS")
                graph(x)
                grown.append((resident("VmHWM") - before) / 1024)
            found[f"{name} {length}"] = statistics.median(grown)
    return found


def memory(kind: str) -> dict[str, float]:
    """The same in a fresh process, whose malloc returns every block above 64 KiB at once: what is live counts."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "memory", kind]
    text = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout
    return json.loads(text.splitlines()[-1])


def generation(context: int = 512, turns: int = 5) -> list[float]:
    """Time of a full pass over `context` symbols over that of one cached symbol, per turn.

    A cached symbol looks at all slots of the ring, full or not, so that every one costs the same: its time is that of
    writing context - 1 symbols, drawing them included, over their number.
    """
    config = Config(73, context=context)
    arrays = {n: tf.constant(a) for n, a in causal.init(config).items()}
    generator = causal.Generator(arrays, config)
    full = tf.function(lambda ids: causal.logits(arrays, ids, config)[:, -1], autograph=False)
    ids, ratios = tf.ones((1, context), tf.int32), []
    for _ in range(turns + 1):
        plain = cpu_seconds(full, ids, least=0.3)
        ratios.append(plain * (context - 1) / cpu_seconds(generator, [1], context - 1, least=0.5))
    return ratios[1:]


def ratio(values, unit: str, what: str, headline: bool = False) -> dict:
    """Median of side-by-side ratios with their range."""
    spread = {"low": min(values), "high": max(values)} if len(values) > 1 else {}
    value = statistics.median(values)
    return record.metric(
        value, unit=unit, n=len(values), band=0.5 * value, what=what, headline=headline, **spread
    )


def main() -> None:
    training.setup(1)
    out, time_share, memory_share = {}, [], []
    mib = {kind: memory(kind) for kind in KINDS}
    for t in LENGTHS:
        found = times(t)
        for other in KINDS[1:]:
            for name in ("forward", "step"):
                turns = [
                    a / b for a, b in zip(found[other, name], found["attention", name], strict=True)
                ]
                tail = f"{other}_over_attention_{'time' if name == 'step' else 'forward_time'}_{t}"
                out[tail] = ratio(
                    turns, "", f"{other} over our attention, CPU time, {name}, T = {t}"
                )
                if other == "keras":
                    time_share.append(1 / out[tail]["value"])
        out[f"attention_peak_mib_{t}"] = ratio(
            [mib["attention"][f"step {t}"]], "MiB", f"peak of our step, T = {t}"
        )
        for other in KINDS[1:]:
            for name in ("forward", "step"):
                tail = (
                    f"{other}_over_attention_{'memory' if name == 'step' else 'forward_memory'}_{t}"
                )
                share = mib[other][f"{name} {t}"] / mib["attention"][f"{name} {t}"]
                out[tail] = ratio(
                    [share], "", f"{other} over our attention, peak memory, {name}, T = {t}"
                )
                if other == "keras":
                    memory_share.append(1 / share)
        print(
            t,
            {key: round(entry["value"], 2) for key, entry in out.items() if key.endswith(f"_{t}")},
            flush=True,
        )
    worst = "largest over T = 128 to 2048, forward and step"
    out["attention_vs_keras_time"] = ratio(
        [max(time_share)], "", f"ours over Keras, time, {worst}", True
    )
    out["attention_vs_keras_memory"] = ratio(
        [max(memory_share)], "", f"ours over Keras, memory, {worst}", True
    )
    out["generation_cache_speedup"] = ratio(
        generation(), "", "full pass over cached symbol at T = 512", True
    )
    print({k: v["value"] for k, v in out.items() if v.get("headline")})
    run = {"profile": "sample", "device": "cpu", "seed": 0, "threads": 1}
    recording.write("attention_speed", out, run)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    if sys.argv[1:2] == ["memory"]:
        training.setup(1)
        print(json.dumps(memory_of(sys.argv[2])))
    else:
        main()
