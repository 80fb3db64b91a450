"""Speed of the mixtures on one CPU thread: `python benchmarks/mixture_speed.py [layer attention memory latency]`.

A training step of the announced mixture layer against its naive gather formulation (tests/reference_mixture.py),
block-sparse attention against dense attention of torch by number of tokens, peak memory of both (each in a process
of its own), and milliseconds per 32 x 32 image. Times are those of the CPU, and what is compared takes turns in one
process, so that a busy machine matters little; the median round counts, a ratio is formed round by round. Writes
benchmarks/mixture_speed.json in about three minutes; with names of parts, only those are measured again.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import recording
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(recording.ROOT / "tests"))
from reference_mixture import Reference

from lib.common import params, record
from lib.mixture import announced, denoiser, windows

TOKENS, BLOCK, REACH, HEADS, WIDTH = (256, 1024, 4096, 16384), 64, 2, 4, 128


def rounds(functions: dict, repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of each function in each round; the first round warms up."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: values[1:] for name, values in times.items()}


def ratio(slow: list[float], fast: list[float], what: str, headline: bool = False) -> dict:
    """The median over rounds of slow / fast, with the range of the rounds as its spread."""
    each = sorted(s / f for s, f in zip(slow, fast, strict=True))
    spread = {"low": each[0], "high": each[-1], "sd": statistics.stdev(each)}
    return record.metric(
        statistics.median(each), unit="times", n=len(each), what=what, headline=headline, **spread
    )


def milliseconds(values: list[float], what: str, headline: bool = False) -> dict:
    """The median of the rounds."""
    spread = {"low": min(values), "high": max(values), "sd": statistics.stdev(values)}
    return record.metric(
        statistics.median(values),
        unit="CPU ms",
        n=len(values),
        what=what,
        headline=headline,
        **spread,
    )


def announced_layer() -> dict:
    """Forward, and forward with backward, of the announced mixture layer at its own size: B = 64, N = 64, D = 128."""
    torch.manual_seed(0)
    fast, tokens = announced.MixtureAttention(), torch.randn(64, 64, 128)
    slow = Reference(fast)

    def train(layer):
        layer.zero_grad()
        layer(tokens)[0].square().mean().backward()

    def infer(layer):
        with torch.no_grad():
            layer(tokens)

    out = {}
    for key, function, what in (
        ("step", train, "forward and backward"),
        ("forward", infer, "forward"),
    ):
        times = rounds({"fast": lambda f=function: f(fast), "slow": lambda f=function: f(slow)}, 7)
        text = f"announced mixture layer, {what}: naive gather over ours, 64 images"
        out[f"announced_{key}_speedup"] = ratio(
            times["slow"], times["fast"], text, headline=key == "step"
        )
        out[f"announced_{key}_ms"] = milliseconds(
            times["fast"], f"announced mixture layer, {what}, 64 images, ours"
        )
    return out | operations()


def operations() -> dict:
    """Multiply-adds of the announced experts: by number of tokens, and against one dense expert."""

    def count(function, *tensors) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function(*tensors)
        return counter.get_total_flops()

    def layer(*kept) -> float:
        # q, k, v and output of 256 tokens of width 128; all scores; the sums over the kept keys
        return sum(4 * 256 * 128**2 + 256 * 256 * 128 + 256 * k * 128 for k in kept)

    recipe, kept = params.load("full").announced, {"batch": 64, "epochs": 30, "learning_rate": 1e-3}
    kept |= {"weight_decay": 1e-4, "clip": 1.0, "balance": 0.01}
    weights = 4e-6 * denoiser.parameters(denoiser.build("announced", 0))
    budgets = (32, 64, 128)
    few, many = (
        count(announced.attend, *torch.zeros(3, 1, 4, tokens, 32), 32) for tokens in (64, 256)
    )
    values = {
        "announced_recipe_values": (
            sum(getattr(recipe, k) == v for k, v in kept.items()),
            "of six announced values",
        ),
        "announced_weights_mb": (weights, "MB, four bytes for each parameter"),
        "announced_sparse_experts": (
            sum(k < 64 for k in budgets),
            "experts that leave out a key at 64 tokens",
        ),
        "announced_attention_growth": (
            many / few,
            "operations of k = 32 attention, 256 over 64 tokens; 4 is linear",
        ),
        "announced_flops_over_dense_256": (
            layer(*budgets) / layer(256),
            "operations, 3 experts over a dense one, N = 256",
        ),
    }
    return {name: record.metric(value, n=1, what=what) for name, (value, what) in values.items()}


def inputs(tokens: int, grad: bool):
    """q, k, v as blocks and as heads, for 4,096 tokens in all or one sequence where it is longer."""
    batch = max(1, 4096 // tokens)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(3, batch, tokens // BLOCK, BLOCK, WIDTH, generator=generator)
    heads = blocks.reshape(3, batch, tokens, HEADS, -1).transpose(2, 3).contiguous()
    return [[x.clone().requires_grad_(grad) for x in form] for form in (blocks, heads)]


def sparse(q, k, v):
    """Own block and the two best others of 64 tokens each."""
    own = torch.arange(q.shape[1]).expand(q.shape[:2])
    return windows.block_attention(q, k, v, own, REACH, HEADS)


def attention() -> dict:
    """Block-sparse over dense attention, by number of tokens."""
    out = {}
    for tokens in TOKENS:
        for grad in (False, True):
            blocks, heads = inputs(tokens, grad)

            def run(function, tensors, grad=grad):
                with torch.set_grad_enabled(grad):
                    result = function(*tensors)
                if grad:
                    result.sum().backward()

            calls = {"block": lambda r=run, b=blocks: r(sparse, b)}
            calls["dense"] = lambda r=run, h=heads: r(F.scaled_dot_product_attention, h)
            times = rounds(calls, 3 if tokens > 4096 else 7)
            key, what = ("_train", "forward and backward") if grad else ("", "forward")
            text = f"{tokens:,} tokens, {what}: dense over block-sparse attention"
            name = f"block_sparse_speedup_{tokens}{key}"
            out[name] = ratio(times["dense"], times["block"], text, headline=tokens == 4096)
    return out


def memory() -> dict:
    """Peak memory that one forward and backward adds, in a fresh process each."""
    out = {}
    for tokens in TOKENS:
        for kind in ("block", "dense"):
            command = [sys.executable, __file__, "--memory", kind, str(tokens)]
            got = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            what = f"peak memory added by one forward and backward, {kind} attention, {tokens:,} tokens in one image"
            out[f"{kind}_attention_mib_{tokens}"] = record.metric(got, unit="MiB", n=1, what=what)
    return out


def peak(kind: str, tokens: int) -> float:
    """MiB by which the resident memory of this process rises at its highest (Linux counts it)."""
    torch.set_num_threads(1)
    blocks, heads = ([x[:1] for x in form] for form in inputs(tokens, True))
    function, tensors = (
        (sparse, blocks) if kind == "block" else (F.scaled_dot_product_attention, heads)
    )
    function(*(x[:, :4] for x in tensors)).sum().backward()  # libraries load their parts now
    Path("/proc/self/clear_refs").write_text("5")  # the highest value starts again
    before = _status("VmRSS")
    function(*tensors).sum().backward()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])  # KiB


@torch.no_grad()
def latency() -> dict:
    """Milliseconds per 32 x 32 image, alone and in batches of 64."""
    models = {arm: denoiser.build(arm, 0).eval() for arm in ("ours", "unet", "announced")}
    out = {}
    for batch in (1, 64):
        images, sigma = torch.rand(batch, 3, 32, 32), torch.full((batch,), 0.2)
        calls = {arm: lambda m=model, x=images, s=sigma: m(x, s) for arm, model in models.items()}
        for arm, times in rounds(calls, 15).items():
            what = f"{arm}, a 32 x 32 image in a batch of {batch}"
            head = arm == "ours" and batch == 64
            name = "mixture_ms_per_image" if head else f"{arm}_ms_per_image_batch_{batch}"
            out[name] = milliseconds([t / batch for t in times], what, headline=head)
    return out


PARTS = {"layer": announced_layer, "attention": attention, "memory": memory, "latency": latency}


def main():
    if "--memory" in sys.argv:
        print(peak(sys.argv[-2], int(sys.argv[-1])))
        return
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(PARTS)
    out = recording.metrics_of("mixture_speed") if sys.argv[1:] else {}
    for name in chosen:
        found = PARTS[name]()
        print({name: round(entry["value"], 2) for name, entry in found.items()}, flush=True)
        out |= found
    recording.write("mixture_speed", out, {"device": "cpu", "seed": 0, "threads": 1})


if __name__ == "__main__":
    main()
