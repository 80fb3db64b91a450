"""Faults of lib/language: a killed training, a diverging loss, damaged weights, odd prompts and texts."""

import numpy as np
import pytest
from faulty import ROOT, child, kill_at, one_line, under
from reference_language import story

from lib.common import weights
from lib.common.params import UserError
from lib.language import causal, corpus, training
from lib.language.symbols import Config
from lib.tools import cli as command_line

tf = pytest.importorskip("tensorflow")
SHIPPED = ROOT / "models" / "attention_lm.safetensors"
KILLED_IN_A_STEP = """
import sys, time
from pathlib import Path
from lib.language import training
from language.test_faults import train
make = training.make_step
def slow(*arguments):
    step = make(*arguments)
    def hang(windows, scale, seed, index):
        if int(index) == 5:
            print("step", flush=True)
            time.sleep(60)
        return step(windows, scale, seed, index)
    return hang
training.make_step = slow
train(Path(sys.argv[1]) / "run.safetensors")
"""


def train(checkpoint=None, adam=5e-3, seed=0, lines=200):
    """A tiny training of eight steps on a story of so many lines; its weights and prices."""
    library = corpus.load({"story": story(lines=lines)})
    config = Config(len(library.tokeniser), "attention", 16, 1, 2, 32, 16, grams=())
    params = {name: tf.Variable(a) for name, a in causal.init(config, seed).items()}
    windows = corpus.batches([library.ids("story", "train")], 8, 4, config.context, seed)

    def loss_of(arrays, rows, key):
        return tf.reduce_mean(training.nats_of(arrays, rows, config, key))

    recipe = training.Recipe(8, 4, adam, 0.0)
    losses = training.fit(
        params,
        loss_of,
        recipe,
        windows,
        seed,
        checkpoint=checkpoint,
        every=2,
        config=config,
    )
    return {name: v.numpy() for name, v in params.items()}, losses


@pytest.mark.fault(
    "kill -9 in a training step (TensorFlow)",
    "the next run goes on from the checkpoint to the same bits",
)
def test_killed_in_a_step(tmp_path):
    kill_at(child(KILLED_IN_A_STEP, tmp_path, CUDA_VISIBLE_DEVICES=""), "step")
    assert under(tmp_path) == ["run.safetensors"]
    whole, losses = train()
    resumed, rest = train(tmp_path / "run.safetensors")
    assert np.array_equal(losses, rest)
    assert all(np.array_equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.fault(
    "another text, learning rate or seed after kill -9 (TensorFlow)",
    "one line that names both and says what to do; the checkpoint stays",
)
def test_a_killed_run_does_not_go_on_with_other_settings(tmp_path):
    path = tmp_path / "run.safetensors"
    kill_at(child(KILLED_IN_A_STEP, tmp_path, CUDA_VISIBLE_DEVICES=""), "step")
    kept = path.read_bytes()
    cure = r".*; delete it to start afresh, or use its settings$"
    for change, named in (
        ({"lines": 201}, r"\{'data': '[0-9a-f]{16}'\}, asked for \{'data': '[0-9a-f]{16}'\}"),
        ({"adam": 4e-3}, r"\{'adam': 0\.005\}, asked for \{'adam': 0\.004\}"),
        ({"seed": 1}, r"'seed': 0\}, asked for .*'seed': 1\}"),
    ):
        with pytest.raises(UserError, match=rf"run\.safetensors: of another run: .*{named}{cure}"):
            train(path, **change)
        assert path.read_bytes() == kept
    train(path)  # with its own settings it goes on


@pytest.mark.fault(
    "a loss that diverges (TensorFlow)",
    "one line that names the step; the checkpoint is of a good state",
)
def test_a_diverging_loss(tmp_path):
    with pytest.raises(UserError, match=r"step \d+: the loss is (nan|inf)"):
        train(tmp_path / "run.safetensors", adam=1e38)
    if (tmp_path / "run.safetensors").is_file():
        arrays = weights.load(tmp_path / "run.safetensors").arrays
        assert np.isfinite(arrays["losses"]).all()


@pytest.mark.fault(
    "a checkpoint of TensorFlow that was cut short", "one line that says what to do; the file stays"
)
def test_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:5000])
    with pytest.raises(
        UserError,
        match=r"run\.safetensors: no checkpoint of this project .*; delete it to start afresh",
    ):
        train(path)
    assert path.stat().st_size == 5000


@pytest.mark.fault("shipped weights of the language model cut short", "one line")
def test_damaged_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    for size in (0, 4, 5000, SHIPPED.stat().st_size // 2):
        path.write_bytes(SHIPPED.read_bytes()[:size])
        with pytest.raises(UserError, match="no saved language model"):
            training.write_text("To be", 5, path=path)


@pytest.mark.fault("weights of another model given to the language model", "one line")
def test_weights_of_another_model():
    with pytest.raises(UserError, match="no saved language model"):
        training.write_text("To be", 5, path=ROOT / "models" / "mixture_denoiser.safetensors")


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        pytest.param(
            ["To be ß"],
            "'ß' at position 6",
            marks=pytest.mark.fault("prompt with an unknown letter", "one line"),
        ),
        pytest.param(
            ["To\x07 be\x1b[2J"],
            "'\\x07' at position 2",
            marks=pytest.mark.fault(
                "prompt with control characters", "one line; they do not reach the terminal"
            ),
        ),
        pytest.param(
            ["\udcff"], "'\\udcff'", marks=pytest.mark.fault("prompt that is no UTF-8", "one line")
        ),
        pytest.param(
            [""],
            "a text of one character or more",
            marks=pytest.mark.fault("empty prompt", "one line"),
        ),
        pytest.param(
            ["To be", "--temperature", "nan"],
            "need temperature >= 0",
            marks=pytest.mark.fault("temperature that is not a number", "one line"),
        ),
        pytest.param(
            ["To be", "--length", "9" * 12],
            "allowed are 20,000,000",
            marks=pytest.mark.fault("more text asked for than fits in memory", "one line, at once"),
        ),
        pytest.param(
            ["a" * 100_000_001],
            "a prompt or a length of 100,000,001 characters",
            marks=pytest.mark.fault("prompt of 100 MB", "one line, at once"),
        ),
    ],
)
def test_odd_prompts(capsys, arguments, wanted):
    code = command_line.main(["generate", "--prompt", *arguments])
    one_line(code, capsys.readouterr().err.splitlines(), "error: ", wanted)


def as_text(path, content):
    if content is None:
        with path.open("wb") as file:
            file.truncate(100_000_000)  # takes no space on the disk
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "content, wanted",
    [
        pytest.param(
            None,
            "100,000,000 bytes; allowed",
            marks=pytest.mark.fault("own text of 100 MB", "one line, at once"),
        ),
        pytest.param(
            b"\xff\xfe\x00",
            "no readable UTF-8",
            marks=pytest.mark.fault("own text that is no UTF-8", "one line"),
        ),
        pytest.param(
            b"",
            "cannot be cut into three parts",
            marks=pytest.mark.fault("own text that is empty", "one line"),
        ),
    ],
)
def test_odd_texts(tmp_path, capsys, content, wanted):
    as_text(tmp_path / "mine.txt", content)
    words = ["train", "language", "--arm", "small", "--text", str(tmp_path / "mine.txt")]
    code = command_line.main([*words, "--out", str(tmp_path / "out")])
    one_line(code, capsys.readouterr().err.splitlines(), "error: ", wanted)
    assert under(tmp_path) == ["mine.txt"]
