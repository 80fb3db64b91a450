"""Training on a text of one's own: parts, unknown characters, prices, bad files, the saved model."""

import numpy as np
import pytest
from reference_language import story

from lib.common import params as settings
from lib.language import own_text, training
from lib.tools import cli

TINY = {
    "width": 16,
    "layers": 1,
    "heads": 2,
    "hidden": 32,
    "context": 16,
    "gram_buckets": (31, 37),
    "stride": 8,
    "adapt_stride": 8,
}


@pytest.fixture
def chosen():
    loaded = settings.load("full")
    return loaded.model_copy(update={"language": loaded.language.model_copy(update=TINY)})


def long_story() -> str:
    text = story(lines=600)
    return text + "\nZYXQ: Zyxq zyxq, said Zyxq \N{SNOWMAN}.\n"


def test_parts_are_contiguous_and_nine_tenths_are_for_training():
    content = long_story()
    text = own_text.cut(content)
    assert text.known_text + text.held_text == content
    assert abs(len(text.held) / len(content) - 0.1) < 0.001
    assert len(text.learn) + len(text.tune) == len(text.known_text)


def test_rare_characters_are_unknown_and_pay_their_bytes():
    content = "\N{SNOWMAN}" + long_story()
    text = own_text.cut(content)
    assert "\N{SNOWMAN}" not in text.tokeniser.pieces
    assert text.learn[0] == 0  # the network learns what to expect of an unknown one
    place = text.held_text.index("\N{SNOWMAN}")
    extra = own_text.escape_bits(text.held_text, text.held)
    assert extra[place] == 24.0
    assert (extra[text.held != 0] == 0).all()


def test_letters_of_unseen_words_are_found():
    found = own_text.unseen_words("The cat sat.", "THE dog sat")
    assert "".join(np.array(list("THE dog sat"))[found]) == "dog"


def test_smoothing_bounds_the_price_of_any_letter():
    text = own_text.cut(long_story())
    sure = np.full(len(text.tune), 2.0)
    wrong = np.full(len(text.held), 40.0)  # nats that a network may ask for an unseen name
    smoothed = own_text.smoothed_nats(text, sure, wrong) / np.log(2)
    bound = np.log2(len(text.tokeniser) / own_text.UNIFORM)
    assert smoothed.max() <= bound + 1e-9 < 20


def test_a_longer_text_leaves_less_time_for_training():
    short = own_text.seconds_for_training(10, 100_000, spent=20)
    long = own_text.seconds_for_training(10, 1_000_000, spent=20)
    assert 600 - 20 > short > long >= 0.3 * 580


@pytest.mark.parametrize("content", ["", "  \n", "too short", b"\xff\xfe\x00", None])
def test_a_bad_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "text.txt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(settings.UserError, match=r"text\.txt: "):
        own_text.read(path)
    with pytest.raises(settings.UserError, match="is a folder"):
        own_text.read(tmp_path)


def test_a_bad_target_is_told_before_the_training(chosen, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(long_story())
    for out, fault in ((tmp_path, "is a folder"), (tmp_path / "no" / "x", "no folder")):
        with pytest.raises(settings.UserError, match=fault):
            own_text.train_text(chosen, path, 1, out, report=lambda line: None)


def test_the_command_line_tells_a_bad_file_in_one_line(tmp_path, capsys):
    assert cli.main(["train-text", str(tmp_path)]) == cli.MISTAKE
    told = capsys.readouterr().err
    assert "is a folder" in told and len(told.splitlines()) == 1


def test_a_text_is_trained_priced_and_written_on(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "setup", lambda threads: None)
    monkeypatch.setattr(own_text, "seconds_for_training", lambda *_: 0.3)
    path, out, lines = tmp_path / "text.txt", tmp_path / "model.safetensors", []
    path.write_text(long_story())
    outcome = own_text.train_text(chosen, path, 1, out, lines.append)
    text = own_text.cut(own_text.read(path))
    for name, bits in outcome.prices.items():
        assert bits.shape == text.held.shape, name
        assert (bits > 0).all() and np.isfinite(bits).all(), name
    uniform = np.log2(len(text.tokeniser))
    assert outcome.prices["mixer"].mean() < outcome.prices["network"].mean() < uniform + 0.1
    assert outcome.unseen.any() and any("saved the model" in line for line in lines)
    assert "mixer" in own_text.summary(outcome)
    written = training.write_text("the ", 20, path=out)
    assert written.startswith("the ") and len(written) == 24
