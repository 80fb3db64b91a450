"""lib/common/params.py: what is allowed passes, and every kind of bad value stops with key, value and what is allowed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lib.common import params
from lib.common.params import UserError

FILE = params.root() / "params.yaml"


@pytest.fixture
def broken(tmp_path):
    """Change one place of the real file, load the copy, and return the message of the error."""

    def change(*keys, value=None, profile=None, drop=False):
        content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if drop:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        return message(tmp_path, yaml.safe_dump(content, sort_keys=False), profile)

    return change


def message(folder: Path, text: str | bytes, profile=None) -> str:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        params.load(profile, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("profile", params.PROFILES)
def test_the_real_file_is_good(profile):
    assert params.load(profile).profile == profile


def test_without_a_profile_the_files_own_is_taken(tmp_path):
    text = FILE.read_text(encoding="utf-8")
    assert params.load().profile == "sample"
    (tmp_path / "params.yaml").write_text(
        text.replace("profile: sample", "profile: full", 1), encoding="utf-8"
    )
    assert params.load(path=tmp_path / "params.yaml").profile == "full"
    assert params.load("sample", tmp_path / "params.yaml").profile == "sample"


def test_the_profiles_values_win_over_the_common_ones(tmp_path):
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    content["data"]["common"] |= {"tune_images": 7, "sigma": 0.5}
    content["data"]["full"]["sigma"] = 0.25
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    sample, full = params.load("sample", path).data, params.load("full", path).data
    assert (sample.sigma, full.sigma) == (0.5, 0.25)
    assert sample.tune_images == content["data"]["sample"]["tune_images"] != 7
    assert sample.blur_sigmas == full.blur_sigmas == tuple(content["data"]["common"]["blur_sigmas"])


@pytest.mark.parametrize(
    "holder, key", [((), "seed"), (("data",), "sigma"), (("announced",), "epochs")]
)
def test_loaded_parameters_are_frozen(holder, key):
    owner = params.load("sample")
    for name in holder:
        owner = getattr(owner, name)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(owner, key, 1)


@pytest.mark.parametrize("section", params.SECTIONS)
def test_every_section_is_in_the_file_with_known_blocks_only(section):
    assert set(yaml.safe_load(FILE.read_text())[section]) <= {"common", *params.PROFILES}


@pytest.mark.parametrize("section, model", params.SECTIONS.items())
def test_a_section_has_its_model_in_the_package_that_reads_it(section, model):
    assert issubclass(params.section_model(section), params.Section)
    assert model.rsplit(".", 1)[0].endswith(".settings")
    assert type(getattr(params.load("sample"), section)) is params.section_model(section)


def test_reading_params_imports_no_section_before_the_file_is_read():
    code = (
        "import sys; from lib.common import params; "
        "print([name for name in sys.modules if name.endswith('.settings')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=params.root(), capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.fault(
    "a wrong key, type or range in params.yaml",
    "one line with key, value and what is allowed; nothing runs",
)
@pytest.mark.parametrize(
    "keys, value, wanted",
    [
        (
            ("data", "common", "sigmaa"),
            0.2,
            ["data.common.sigmaa: unknown key", "sigma", "blur_sigmas"],
        ),
        (("announced", "sample", "epoch"), 5, ["announced.sample.epoch: unknown key", "epochs"]),
        (("sede",), 1, ["sede: unknown key", "seed", "device"]),
        (
            ("data", "smaple"),
            {"tune_images": 1},
            ["data.smaple: unknown block", "common, sample, full"],
        ),
        (("data", "sample"), 5, ["data.sample = 5", "expected keys and values"]),
        (("data",), 5, ["data = 5", "common, sample, full"]),
        (("data", "common", "sigma"), 1.5, ["data.common.sigma = 1.5", "less than or equal to 1"]),
        (("data", "common", "sigma"), 0.0, ["data.common.sigma = 0.0", "greater than 0"]),
        (("data", "common", "sigma"), "0.2", ["data.common.sigma = '0.2'", "valid number"]),
        (("data", "common", "sigma"), float("nan"), ["data.common.sigma = nan"]),
        (
            ("announced", "common", "learning_rate"),
            float("inf"),
            ["announced.common.learning_rate = inf", "finite"],
        ),
        (
            ("announced", "common", "clip"),
            float("nan"),
            ["announced.common.clip = nan", "finite number"],
        ),
        (
            ("announced", "common", "balance"),
            -0.1,
            ["announced.common.balance = -0.1", "greater than or equal to 0"],
        ),
        (
            ("announced", "sample", "epochs"),
            5.0,
            ["announced.sample.epochs = 5.0", "valid integer"],
        ),
        (
            ("announced", "sample", "epochs"),
            True,
            ["announced.sample.epochs = True", "valid integer"],
        ),
        (("announced", "sample", "epochs"), 0, ["announced.sample.epochs = 0", "greater than 0"]),
        (
            ("announced", "sample", "epochs"),
            None,
            ["announced.sample.epochs = None", "valid integer"],
        ),
        (
            ("data", "common", "blur_sigmas"),
            [],
            ["data.common.blur_sigmas = []", "at least 1 item"],
        ),
        (
            ("data", "common", "blur_sigmas"),
            [1.0, -2.0],
            ["data.common.blur_sigmas.1 = -2.0", "greater than 0"],
        ),
        (("data", "common", "val_share"), 1.0, ["data.common.val_share = 1.0", "less than 1"]),
        (
            ("data", "common", "bias_levels"),
            2,
            ["data.common.bias_levels = 2", "greater than or equal to 3"],
        ),
        (("seed",), -1, ["seed = -1", "greater than or equal to 0"]),
        (("seed",), 2**31, [f"seed = {2**31}", f"less than {2**31}"]),
        (("seeds", "language"), [], ["seeds.language = []", "at least 1 item"]),
        (("seeds", "mixture"), [0, 0.5], ["seeds.mixture.1 = 0.5", "integer"]),
        (("seeds", "announced"), 3, ["seeds.announced = 3", "tuple"]),
        (("seeds", "images"), [0], ["seeds.images: unknown key", "announced, mixture, language"]),
        (("threads",), 0, ["threads = 0", "greater than or equal to 1"]),
        (("device",), "gpu", ["device = 'gpu'", "'auto', 'cpu' or 'cuda'"]),
        (("profile",), "smaple", ["profile = 'smaple'", "sample, full"]),
        (("profile",), ["sample"], ["profile = ['sample']", "sample, full"]),
    ],
)
def test_a_bad_value_names_key_value_and_what_is_allowed(broken, keys, value, wanted):
    text = broken(*keys, value=value)
    assert text.startswith("params.yaml: ")
    for part in wanted:
        assert part in text


@pytest.mark.parametrize(
    "keys, wanted",
    [
        (("seed",), "seed: missing"),
        (("data",), "data: missing"),
        (("data", "common", "sigma"), "data.common.sigma: missing"),
        (("announced", "sample", "epochs"), "announced.common.epochs: missing"),
        (("profile",), "profile = None: allowed are sample, full"),
    ],
)
def test_a_missing_key_is_named(broken, keys, wanted):
    assert wanted in broken(*keys, drop=True)


def test_an_integer_passes_where_a_number_is_asked(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        FILE.read_text(encoding="utf-8").replace("sigma: 0.2", "sigma: 1"), encoding="utf-8"
    )
    assert params.load(path=path).data.sigma == 1.0
    assert isinstance(params.load(path=path).data.sigma, float)


def test_a_fault_in_the_other_profile_is_found_at_once(broken):
    text = broken("announced", "full", "epochs", value=-3, profile="sample")
    assert "announced.full.epochs = -3" in text


def test_all_faults_are_told_together(tmp_path):
    text = (
        FILE.read_text(encoding="utf-8")
        .replace("threads: 2", "threads: none")
        .replace("clip: 1.0", "clip: 0.0")
    )
    told = message(tmp_path, text)
    assert "threads = 'none'" in told and "announced.common.clip = 0.0" in told


def test_an_unknown_profile_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"profile = 'big': allowed are sample, full"):
        params.load("big")


def test_a_key_that_stands_twice(tmp_path):
    text = FILE.read_text(encoding="utf-8")
    assert "'seed' stands twice" in message(tmp_path, text + "\nseed: 1\n")
    inner = text.replace("    sigma: 0.2", "    sigma: 0.2\n    sigma: 0.3", 1)
    assert "'sigma' stands twice" in message(tmp_path, inner)


@pytest.mark.fault("params.yaml damaged", "one line; nothing runs")
@pytest.mark.parametrize("text", ["seed: [1, 2", "a: b: c", "\tseed: 1", b"\xff\xfe seed: 1"])
def test_what_is_not_yaml(tmp_path, text):
    assert "not readable as YAML" in message(tmp_path, text)


@pytest.mark.parametrize(
    "text, found", [("", "NoneType"), ("- 1\n- 2\n", "list"), ("sample", "str")]
)
def test_yaml_that_is_not_a_mapping(tmp_path, text, found):
    assert message(tmp_path, text) == f"params.yaml: expected keys and values, found {found}"


def test_keys_that_cannot_be_keys(tmp_path):
    assert "not readable as YAML" in message(tmp_path, FILE.read_text() + "\n? [1, 2]\n: 3\n")
    assert "1 = 1: keys should be strings" in message(tmp_path, FILE.read_text() + "\n1: 3\n")


def test_a_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"params.yaml: not found; restore it with `git checkout params.yaml`"
    ):
        params.load(path=tmp_path / "params.yaml")


def test_root_is_the_folder_above_lib(monkeypatch, tmp_path):
    assert params.root() == Path(__file__).resolve().parents[2]
    module = tmp_path / "deep" / "lib" / "params.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(params, "__file__", str(module))
    shutil.copy(FILE, tmp_path)
    assert params.root() == tmp_path
    (tmp_path / "params.yaml").unlink()
    with pytest.raises(UserError, match=r"params.yaml: not found in any folder above"):
        params.root()


def test_output_folder_lies_under_the_root_or_under_what_the_variable_names(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTEBOOK_OUTPUT", raising=False)
    assert params.output_folder("results/sample") == params.root() / "results" / "sample"
    monkeypatch.setenv("NOTEBOOK_OUTPUT", str(tmp_path))
    assert params.output_folder("results/sample") == tmp_path / "results" / "sample"
    monkeypatch.setenv("NOTEBOOK_OUTPUT", "")
    assert params.output_folder("results/sample") == params.root() / "results" / "sample"
