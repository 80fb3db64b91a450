"""Faults of the mixture's training and of the image command: kills, a full disk, damaged weights, odd pictures."""

import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from faulty import ROOT, child, finish, kill_at, one_line, small_disk, under
from PIL import Image

from lib.common.params import UserError
from lib.mixture import denoiser, training
from lib.tools import cli as command_line
from lib.tools import photo

TINY = training.TrainConfig(images=12, steps=6, batch=4, log_every=1, val_every=4, save_every=2)
CHILD = """
import sys, time
from pathlib import Path
from lib.mixture import training
from mixture.test_faults import run
folder = Path(sys.argv[1])
"""
KILLED_IN_A_STEP = """
advance = training.Run.advance
def hang(run):
    if run.step == 5:
        print("step", flush=True)
        time.sleep(60)
    return advance(run)
training.Run.advance = hang
run(folder)
"""
KILLED_WHILE_SAVING = """
write = Path.write_bytes
def hang(path, content):
    if (folder / "run.safetensors").exists():
        write(path, content[: len(content) // 2])
        print("half", flush=True)
        time.sleep(60)
    return write(path, content)
Path.write_bytes = hang
run(folder)
"""
THROUGH_MAIN = """
training.train = lambda *arguments: run(folder)
from lib.tools import cli
sys.exit(cli.main(["train", "mixture", "--arm", "announced", "--out", "nowhere"]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nobody disturbed."""
    return run(tmp_path_factory.mktemp("whole"))


def run(folder):
    """A tiny training with its checkpoint in `folder`: it goes on from one that is there."""
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    clean = images[:2].astype(np.float32) / 255
    paths = {"checkpoint": folder / "run.safetensors", "log": folder / "log.jsonl"}
    return training.fit(TINY, images, clean, clean, **paths, resume=True)[0].state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.fault(
    "kill -9 in a training step (PyTorch)",
    "the next run goes on from the checkpoint to the same bits",
)
def test_killed_in_a_step(tmp_path, whole):
    kill_at(child(CHILD + KILLED_IN_A_STEP, tmp_path), "step")
    assert denoiser.load_tensors(tmp_path / "run.safetensors")[1]["step"] == 4
    assert equal(run(tmp_path), whole)
    assert under(tmp_path) == ["log.jsonl"]


@pytest.mark.fault(
    "kill -9 while a checkpoint is written",
    "the earlier one is whole; the next run ends in the same bits",
)
def test_killed_while_saving(tmp_path, whole):
    kill_at(child(CHILD + KILLED_WHILE_SAVING, tmp_path), "half")
    assert denoiser.load_tensors(tmp_path / "run.safetensors")[1]["step"] == 2
    assert equal(run(tmp_path), whole)
    assert not (tmp_path / "run.safetensors").exists()


@pytest.mark.fault(
    "disk full while a checkpoint is written", "one line; the earlier checkpoint is whole"
)
def test_saving_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 10 << 20) as (
        how,
        start,
    ):  # holds one checkpoint of 7 MB, not two
        code, said = finish(child(CHILD + THROUGH_MAIN, tmp_path / "disk", start=start))
        if how == "tmpfs":
            one_line(code, said, "error: [Errno 28] No space left on device")
            assert denoiser.load_tensors(tmp_path / "disk" / "run.safetensors")[1]["step"] == 2
            assert set(under(tmp_path / "disk")) <= {"run.safetensors", "log.jsonl"}
    if how != "tmpfs":  # a limit on the size of a file: not even the first one fits
        with small_disk(tmp_path / "limit", 1 << 20) as (_, start):
            one_line(
                *finish(child(CHILD + THROUGH_MAIN, tmp_path / "limit", start=start)),
                "error: [Errno 27]",
            )
            assert "run.safetensors" not in under(tmp_path / "limit")


@pytest.mark.fault(
    "a checkpoint that was cut short", "one line that says what to do; the file stays"
)
def test_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    run_of = training.Run(
        training.TrainConfig(images=4, batch=4),
        np.zeros((4, 3, 32, 32), np.uint8),
        torch.device("cpu"),
    )
    training.save_checkpoint(run_of, path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:4], b"", b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(
            UserError, match=r"run\.safetensors: no weights of this project .*; delete it"
        ):
            training.load_checkpoint(run_of, path)
        assert path.read_bytes() == broken


@pytest.mark.fault("pixels that are not numbers", "refused; no NaN comes out")
def test_nan_pixels():
    image = np.full((8, 8, 3), 0.5, np.float32)
    for bad in (np.nan, np.inf):
        image[3, 3, 1] = bad
        with pytest.raises(ValueError, match="all finite"):
            photo.denoise_array(image, 0.1)


# ---------------------------------------------------------------- pictures


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_that_claims(width, height, path):
    """A PNG of a few bytes whose header asks for width x height pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b""))


def picture(height=12, width=12, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def one_pixel(path):
    picture(1, 1).save(path)


def sixteen_bits(path):
    Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 400).save(path, "PNG")


def cmyk(path):
    picture().convert("CMYK").save(path, "JPEG")


def animated(path):
    picture().save(path, "PNG", save_all=True, append_images=[picture(seed=1), picture(seed=2)])


def animated_gif(path):
    picture().save(path, "GIF", save_all=True, append_images=[picture(seed=1)])


def cut_short(path):
    picture().save(path)
    path.write_bytes(path.read_bytes()[:-100])


def cut_short_jpeg(path):
    picture(64, 64).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:500])


def bomb(path):
    png_that_claims(60_000, 60_000, path)


def small_bomb(path):
    png_that_claims(9_000, 9_000, path)  # below the limit at which Pillow warns


def text(path):
    path.write_text("no picture at all")


def empty(path):
    path.touch()


@pytest.mark.parametrize(
    "make, wanted",
    [
        pytest.param(
            one_pixel, "1 x 1: too small", marks=pytest.mark.fault("image of 1 x 1", "one line")
        ),
        pytest.param(
            sixteen_bits,
            "I;16",
            marks=pytest.mark.fault("PNG of 16 bits", "one line, not values cut off"),
        ),
        pytest.param(
            cmyk, "CMYK", marks=pytest.mark.fault("CMYK JPEG", "one line, not other colours")
        ),
        pytest.param(
            animated,
            "3 frame(s)",
            marks=pytest.mark.fault("animated PNG", "one line, not the first frame"),
        ),
        pytest.param(
            animated_gif, "cannot identify", marks=pytest.mark.fault("animated GIF", "one line")
        ),
        pytest.param(
            cut_short, "not an image", marks=pytest.mark.fault("PNG that was cut short", "one line")
        ),
        pytest.param(
            cut_short_jpeg,
            "not an image",
            marks=pytest.mark.fault("JPEG that was cut short", "one line"),
        ),
        pytest.param(
            bomb,
            "decompression bomb",
            marks=pytest.mark.fault("decompression bomb", "one line, at once"),
        ),
        pytest.param(
            small_bomb,
            "81,000,000 pixels",
            marks=pytest.mark.fault("image too large for memory", "one line"),
        ),
        pytest.param(
            text, "cannot identify", marks=pytest.mark.fault("a text named .png", "one line")
        ),
        pytest.param(
            empty,
            "cannot identify",
            marks=pytest.mark.fault("an empty file named .png", "one line"),
        ),
    ],
)
def test_odd_pictures(tmp_path, capsys, recwarn, make, wanted):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    make(source)
    code = command_line.main(["denoise", str(source), str(target)])
    one_line(code, capsys.readouterr().err.splitlines(), "error: ", wanted)
    assert under(tmp_path) == ["in.png"] and not recwarn.list


@pytest.mark.fault(
    "one pixel with its noise level named", "it is denoised: nothing is wrong with it"
)
def test_one_pixel_with_a_level(tmp_path):
    one_pixel(tmp_path / "in.png")
    assert (
        command_line.main(
            ["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--sigma", "0.1"]
        )
        == 0
    )


@pytest.mark.fault("shipped weights of the mixture cut short", "one line; no picture is written")
def test_damaged_weights(tmp_path, capsys, monkeypatch):
    shutil.copy(ROOT / photo.WEIGHTS, tmp_path / "weights.safetensors")
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(photo, "WEIGHTS", tmp_path / "weights.safetensors")
    picture().save(tmp_path / "in.png")
    code = command_line.main(["denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png")])
    one_line(
        code,
        capsys.readouterr().err.splitlines(),
        "weights.safetensors: no weights of this project",
    )
    assert not (tmp_path / "out.png").exists()


def test_debug_shows_the_traceback(tmp_path):
    text(tmp_path / "in.png")
    with pytest.raises(UserError):
        command_line.main(
            ["--debug", "denoise", str(tmp_path / "in.png"), str(tmp_path / "out.png")]
        )
