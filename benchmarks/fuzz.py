"""Broken input for everything that reads what a user gives: `python benchmarks/fuzz.py` (a minute of CPU).

Pictures, prompts, own texts, params.yaml, claims.yaml, records of studies and weights: good examples with bytes
changed, cut, doubled and spliced, from a fixed seed. A crash is any exception but the one that the command line turns
into one line. Writes benchmarks/fuzz.json; tests/repository/test_fuzz.py repeats a few hundred inputs with other seeds.
"""

import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import recording
from PIL import Image
from recording import ROOT

from lib.common import claims, params, record
from lib.tools import gather

COUNTS = {
    "picture": 2000,
    "prompt": 1000,
    "text": 500,
    "params": 200,
    "claims": 1000,
    "record": 1000,
    "weights": 500,
}
WORDS = [b"0", b"-1", b"1e999", b"nan", b"null", b"[", b"]", b"{", b"}", b": ", b"\n", b"\x00", b"\xff\xff\xff\xff",
         b"&a ", b"*a", b"!!python/object:os.system", b"<<: ", b"9" * 400,
         b"'", b'"', b"\xc3\x28", b"true"]  # fmt: skip
LEDGER = b"""claims:
  - {id: a-claim, system: em, announced: gains 2 dB, test: mean gain, metric: gain_db, rule: {at_least: 2}}
  - id: other
    system: mixture
    announced: is better
    test: the mean
    rule: {not_testable: it was never published}
"""
RECORD = b'{"study": "s", "run": {"seed": 0}, "metrics": {"a": {"value": 1.5, "n": 3, "low": 1, "high": 2}}}'


class Entry(NamedTuple):
    """Something that reads input: good examples, the call, and the exceptions that are a clear refusal."""

    examples: list[bytes]
    call: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = (params.UserError,)


def mutate(rng: np.random.Generator, content: bytes) -> bytes:
    """The content with one to five changes; their places favour its beginning, where headers are."""
    for _ in range(rng.integers(1, 6)):
        at = int(len(content) * rng.random() ** 2)
        end = at + int(rng.integers(1, 9))
        change = [
            lambda at=at, end=end: bytes(rng.integers(0, 256, end - at, dtype=np.uint8)),
            lambda: b"",
            lambda at=at, end=end, content=content: content[at:end] * 2,
            lambda at=at, end=end, content=content: (
                WORDS[rng.integers(len(WORDS))] + content[at:end]
            ),
            lambda content=content: content[int(len(content) * rng.random()) :][:64],
        ][rng.integers(5)]()
        content = content[:at] + change + content[end:]
        if rng.random() < 0.05:
            content = content[: int(len(content) * rng.random())]
    return content


def pictures() -> Entry:
    from lib.tools import photo

    def read(path: Path):
        pixels = photo.read_image(path).pixels
        if pixels.size <= 4096:  # what can be read is denoised too, while it is small
            photo.denoise_file(path, path.with_suffix(".out.png"))
        return pixels

    pixels, examples = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8), []
    for mode, kind in [
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGB", "JPEG"),
        ("L", "JPEG"),
    ]:
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, kind)
        examples.append(file.getvalue())
    return Entry(examples, read)


def prompts() -> Entry:
    from lib.language import causal, training

    arrays, config, tokeniser = training.load_model(ROOT / "models" / "attention_lm.safetensors")
    writer = causal.Generator(arrays, config)

    def write(path: Path):
        text = path.read_bytes().decode(
            "utf-8", "surrogateescape"
        )  # as arguments come from the system
        draw = np.random.default_rng(len(text))
        settings = [0.0, 0.5, 1e30, -1.0, float("nan"), 1e-45]
        setting = settings[draw.integers(len(settings))]
        return tokeniser.decode(
            writer(tokeniser.encode(text), 1, setting, int(draw.integers(0, 3)), 1.0, 0)
        )

    return Entry([b"To be, or not", b"Alice\n\nwas", b"e"], write, (params.UserError, ValueError))


def texts() -> Entry:
    from lib.language import corpus, training

    example = b"The cat sat.\n\nIt ran away and\r\nsaw a rat.\n\n" * 8
    return Entry(
        [example],
        lambda path: corpus.load({"t": training.read_text(path)}),
        (params.UserError, ValueError),
    )


def weights() -> Entry:
    from safetensors.numpy import save

    from lib.language import training
    from lib.mixture import denoiser

    def load(path: Path):
        reader = (
            training.load_model if path.read_bytes().count(b"pieces") else denoiser.load_weights
        )
        return reader(path)

    values = {"a": np.ones(3, np.float32)}
    language = {"about": json.dumps({"config": {"vocab": 3, "grams": []}, "pieces": ["a", "b"]})}
    about = [{"about": '{"arm": "announced"}'}, language]
    return Entry([save(values, entry) for entry in about], load)


def entries() -> dict[str, Callable[[], Entry]]:
    """Each entry point by name; what it needs is imported when it is asked for."""
    return {
        "picture": pictures,
        "prompt": prompts,
        "text": texts,
        "params": lambda: Entry(
            [(ROOT / "params.yaml").read_bytes()], lambda path: params.load(path=path)
        ),
        "claims": lambda: Entry([LEDGER], claims.load_ledger),
        "record": lambda: Entry([RECORD], gather.read_study),
        "weights": weights,
    }


def fuzz(name: str, count: int, seed: int, folder: Path) -> tuple[list[dict], int]:
    """Throw `count` inputs at an entry; the crashes, and how many inputs were accepted."""
    entry, crashes, accepted = entries()[name](), [], 0
    path = folder / "input"
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        content = mutate(rng, entry.examples[rng.integers(len(entry.examples))])
        path.write_bytes(content)
        try:
            entry.call(path)
            accepted += 1
        except entry.refusals as error:
            if "\n" in str(error) and params.UserError in type(error).__mro__:
                crashes.append(
                    {
                        "entry": name,
                        "number": number,
                        "error": "more than one line",
                        "input": content.hex(),
                    }
                )
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
            crashes.append(
                {"entry": name, "number": number, "error": text, "input": content.hex()[:2000]}
            )
    return crashes, accepted


def main() -> int:
    crashes, accepted = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in COUNTS.items():
            found, accepted[name] = fuzz(name, count, 0, Path(folder))
            crashes += found
            print(
                f"{name}: {count} inputs, {accepted[name]} accepted, {len(found)} crashes",
                flush=True,
            )
    total = sum(COUNTS.values())
    text = (
        "broken inputs for pictures, prompts, texts, params.yaml, claims.yaml, records and weights"
    )
    metrics = {
        "fuzz_inputs": record.metric(total, n=len(COUNTS), what=text, headline=True),
        "fuzz_crashes": record.metric(
            len(crashes), n=total, what="of them, without a clear refusal", headline=True
        ),
    }
    more = {"inputs": COUNTS, "accepted": accepted, "crashes": crashes}
    recording.write("fuzz", metrics, {"device": "cpu"}, **more)
    return int(bool(crashes))


if __name__ == "__main__":
    sys.exit(main())
