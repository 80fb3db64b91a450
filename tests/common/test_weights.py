"""lib/common/weights.py: what is written comes back, what is not ours is refused, shipped files are what was shipped."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save

from lib.common import files, params, weights
from lib.common.params import UserError

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "scalar": np.array(3, dtype=np.int64),
    "empty": np.empty((0, 4), dtype=np.float16),
    "bytes": np.arange(5, dtype=np.uint8),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    rate: float = 0.1
    grams: tuple = ((2, 61),)


@dataclasses.dataclass(frozen=True)
class Shape:
    width: int = 8


# writing and reading


def test_arrays_come_back_with_shape_type_and_what_is_said_of_them(tmp_path):
    weights.save(tmp_path / "a.safetensors", ARRAYS, {"about": {"arm": "ours", "grams": (2, 3)}})
    arrays, about = weights.load(tmp_path / "a.safetensors")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert about == {"about": {"arm": "ours", "grams": [2, 3]}}


def test_equal_content_makes_equal_bytes(tmp_path):
    turned_round = dict(reversed(ARRAYS.items()))
    weights.save(tmp_path / "a.safetensors", ARRAYS, {"about": 1})
    weights.save(tmp_path / "b.safetensors", turned_round, {"about": 1})
    assert files.sha256(tmp_path / "a.safetensors") == files.sha256(tmp_path / "b.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(path, ARRAYS)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        weights.save(path, ARRAYS, {"about": object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, save(ARRAYS)[:40], save(ARRAYS)[:-1]])
def test_what_is_no_safetensors_file_is_one_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^a\.safetensors: no prior \(.*\); fit it again$") as said:
        weights.load(path, kind="prior", cure="fit it again")
    assert "\n" not in str(said.value)
    assert path.read_bytes() == content


def test_words_about_a_file_that_are_no_json_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save(ARRAYS, {"format": "pt"}))
    with pytest.raises(UserError, match=r"a\.safetensors: no weights of this project"):
        weights.load(tmp_path / "a.safetensors")


def test_a_missing_file_is_named_with_its_cure(tmp_path):
    with pytest.raises(UserError, match=r"^a\.safetensors: not found; delete it and train again$"):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "shapes, text",
    [
        ({"a": (2, 3), "b": (4,)}, r"w: of another network: b is missing, expected \(4,\)"),
        ({}, r"a is \(2, 3\), expected none"),
        ({"a": (3, 2)}, r"a is \(2, 3\), expected \(3, 2\)"),
    ],
)
def test_arrays_of_another_network_are_refused(shapes, text):
    arrays = {"a": np.zeros((2, 3))}
    weights.check_shapes("w", arrays, {"a": (2, 3)})
    with pytest.raises(UserError, match=text):
        weights.check_shapes("w", arrays, shapes)


# what ships


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own with one shipped file and its entry."""
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(weights, "root", lambda: tmp_path)
    files.write_json(tmp_path / weights.REGISTRY, {})
    weights.save(tmp_path / "models" / "a.safetensors", ARRAYS)
    return tmp_path


def test_every_shipped_file_is_in_the_registry_with_its_hash():
    folder = params.root() / "models"
    found = {path.name: files.sha256(path) for path in folder.glob("*.safetensors")}
    assert found and found == json.loads((params.root() / weights.REGISTRY).read_text())


@pytest.mark.fault(
    "one flipped bit in shipped weights", "one line that names the file and how to restore it"
)
def test_one_flipped_bit_in_the_last_byte_is_one_clear_line(project):
    path = project / "models" / "a.safetensors"
    weights.load(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # still a valid safetensors file
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"^models/a\.safetensors: changed since it was shipped"
    ) as said:
        weights.load(path)
    assert "`git checkout models/a.safetensors`" in str(said.value)
    assert "\n" not in str(said.value)
    shutil.move(path, project / "a.safetensors")
    weights.load(project / "a.safetensors")  # elsewhere it is nobody's promise


def test_a_file_of_models_that_is_not_in_the_registry_is_refused(project):
    path = project / "models" / "b.safetensors"
    shutil.copy(project / "models" / "a.safetensors", path)
    line = rf'enter "b\.safetensors": "{files.sha256(path)}"$'
    with pytest.raises(
        UserError, match=rf"^models/b\.safetensors: not in models/sha256\.json.*{line}"
    ):
        weights.load(path)


def test_saving_into_models_enters_the_new_hash(project):
    path = project / "models" / "a.safetensors"
    weights.save(path, {"other": np.ones(3)})
    assert weights.load(path).arrays.keys() == {"other"}
    assert json.loads((project / weights.REGISTRY).read_text()) == {
        "a.safetensors": files.sha256(path)
    }


@pytest.mark.parametrize("content", [None, "{"])
def test_a_registry_that_is_missing_or_broken_is_named(project, content):
    (project / weights.REGISTRY).unlink()
    if content:
        (project / weights.REGISTRY).write_text(content)
    with pytest.raises(UserError, match=r"^models/sha256\.json: not readable; restore it with"):
        weights.load(project / "models" / "a.safetensors")


# whose checkpoint


def test_an_identity_is_plain_and_changes_with_each_thing_that_decides_a_run():
    windows = np.arange(12).reshape(3, 4)
    mine = weights.identity(windows, Recipe(), Shape(), seed=0)
    assert json.loads(json.dumps(mine)) == mine
    assert mine == weights.identity(windows.copy(), Recipe(), Shape(), seed=0)
    assert mine.keys() == {"data", "rate", "grams", "width", "seed"}
    others = [
        weights.identity(windows + 1, Recipe(), Shape(), seed=0),
        weights.identity(windows.reshape(4, 3), Recipe(), Shape(), seed=0),
        weights.identity(windows.astype(np.float64), Recipe(), Shape(), seed=0),
        weights.identity(windows, Recipe(rate=0.2), Shape(), seed=0),
        weights.identity(windows, Recipe(), Shape(width=9), seed=0),
        weights.identity(windows, Recipe(), Shape(), seed=1),
    ]
    assert mine not in others
    with pytest.raises(
        UserError, match=r"w: of another run: made with \{'rate': 0\.1\}, asked for"
    ):
        weights.check_same("w", mine, others[3])
    weights.check_same("w", mine, dict(mine))


def test_settings_that_share_a_name_are_refused():
    with pytest.raises(ValueError, match="width stands in more than one"):
        weights.identity(np.zeros(1), Shape(), Shape())


def test_a_setting_that_only_one_side_has_is_a_difference():
    with pytest.raises(UserError, match=r"made with \{'seed': None\}, asked for \{'seed': 0\}"):
        weights.check_same("w", {}, {"seed": 0})
