"""What a record is of, what is refused before one is begun, and two records compared."""

import json
import math
import multiprocessing
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import soundfile
import torch
from eval_parts import LOGMEL, OFFICE, PIANO, SHORT, run, tiny_tasks, tuned

from eval_tasks.__main__ import build_parser, main
from eval_tasks.plan import plan_run
from eval_tasks.request import Request
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.files import temporary_beside
from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import paired
from hear_ptsed.metrics.records import Record
from hear_ptsed.options import read_options, write_options
from hear_ptsed.registry import build
from hear_ptsed.schema import describe

TASK = Path("tasks/office_synthetic-v1-tiny")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return tiny_tasks(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def here(parts, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with the tasks in it, as the current one."""
    shutil.copytree(parts / "tasks", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(parts: Path, **changes) -> Request:
    values = {"task": "office", "folder": TASK.name, "module": "checkpoint", "protocol": "linear"}
    values |= {"checkpoint": parts / "mn02.pt", "tasks_dir": parts / "tasks"}
    return Request(**values | changes)


def test_what_decides_a_result_makes_another_record(parts, here):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_checkpoint(build("frame_mn02", n_classes=None).eval(), here / "other.pt")
    (here / TASK / "test.json").write_text(json.dumps(relabelled(here / TASK / "test.json")))
    different = [
        {},
        {"seed": 1},
        {"protocol": "finetuned"},
        {"protocol": "hear"},
        {"protocol": "hear", "grid": "fast"},
        {"protocol": "hear", "grid_points": 2},
        {"model_options": {"overlap": 5.0}},
        {"set": ("optim.lr=0.1",)},
        {"set": ("fit.shifts=3",)},
        {"checkpoint": here / "other.pt"},
        {"stage": "weak"},
        {"module": "eval_tasks.logmel", "checkpoint": None},
        {"module": "frame_mn06_strong", "checkpoint": None, "untrained": True},
        {"module": "frame_mn10_strong", "checkpoint": None, "untrained": True},
        {"task": "piano", "folder": "piano_synthetic-v1-tiny"},
        {"task": "piano", "folder": "piano_synthetic-v1-tiny", "folds": 1},
        {"tasks_dir": here / "tasks"},  # where a label differs
    ]
    runs = [plan_run(asked(parts, **changes)) for changes in different]
    assert len({one.identity for one in runs}) == len({one.path for one in runs}) == len(different)


def relabelled(path: Path) -> dict:
    labels = json.loads(path.read_text())
    events = next(iter(labels.values()))
    events[0]["label"] = "hiss" if events[0]["label"] != "hiss" else "beep"
    return labels


def test_where_and_on_what_a_run_happens_makes_no_other_record(parts, here):
    shutil.copy(parts / "mn02.pt", here / "renamed.pt")
    shutil.copytree(parts / "tasks", here / "same")
    same = [
        {},
        {"seed": 0},
        {"device": "cpu", "workers": 3},
        {"results": here / "elsewhere", "work": here / "too"},
        {"checkpoint": here / "renamed.pt"},
        {"tasks_dir": here / "same"},
        {"module": "hear_ptsed.plugins.checkpoint", "protocol": "linear"},
        {"set": ("optim.lr=0.2",)},  # as it is anyway
    ]
    assert len({plan_run(asked(parts, **changes)).identity for changes in same}) == 1


def test_a_request_is_told_as_the_arguments_it_is_read_from(parts):
    request = asked(parts, seed=3, set=("optim.lr=0.1", "fit.shifts=1"), layers="mean", workers=2)
    request = replace(request, model_options={"overlap": 5.0}, folds=1, name="a b", untrained=True)
    arguments = ["run", *write_options(request)]
    assert read_options(Request, build_parser().parse_args(arguments)) == request


def test_every_field_of_a_request_is_an_option_that_help_explains_in_a_sentence(
    capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, hint in get_type_hints(Request, include_extras=True).items():
        flag, about = f" --{name.replace('_', '-')} ", describe(hint)
        assert about.endswith(".") and about[0].isupper(), name
        told = text.rpartition(f" {about.removesuffix('.')}")[0]
        assert told.endswith(flag.rstrip()) or flag in told[-90:], (flag, told[-90:])


def test_help_needs_no_torch():
    code = "import sys; from eval_tasks.__main__ import build_parser; build_parser()"
    code += "; assert not {'torch', 'pandas', 'scipy', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("option", [("--mode", "frozen"), ("--setup=simple",)])
def test_an_option_of_old_is_told_as_the_protocol(capsys, option):
    with pytest.raises(SystemExit) as end:
        main(["run", "--task", "home", "--module", "beats_strong", *option])
    told = capsys.readouterr().err.strip()
    assert end.value.code == 2 and len(told.splitlines()) == 1
    assert "give --protocol instead: hear or linear for frozen" in told


WRONG = {  # options beside the task and the module: what is said
    ("--protocol", "weak-linear"): "office takes hear, linear, finetuned",
    ("--protocol", "hear", "--seeds", "3"): "heareval seeds itself with 42",
    ("--protocol", "hear", "--seed", "1"): "it makes one record",
    ("--protocol", "hear", "--set", "optim.lr=1"): "heareval takes --grid",
    ("--protocol", "hear", "--folds", "1"): "always tests all folds",
    ("--protocol", "hear", "--device", "cpu"): "takes a GPU if there is one",
    ("--grid", "fast", "--protocol", "linear"): "give --protocol hear",
    ("--export", "x.pt", "--protocol", "linear"): "give --protocol finetuned",
    ("--untrained", "--checkpoint", "x.pt", "--protocol", "linear"): "exclude each other",
    ("--layer", "3", "--drop-layers", "1", "--protocol", "linear"): "exclude each other",
    ("--folds", "2", "--protocol", "linear"): "has 1 to test on",
    ("--seed", "1", "--seeds", "2", "--protocol", "linear"): "exclude each other",
}


@pytest.mark.parametrize("options", WRONG)
def test_options_that_do_not_go_together_are_wrong_usage(here, capsys, options):
    assert main(["run", *OFFICE, "--module", "eval_tasks.logmel", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert WRONG[options] in told and len(told.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["tasks"]


def no_split_file():
    (TASK / "valid.json").unlink()


def empty_split():
    (TASK / "valid.json").write_text("{}")


def no_json():
    (TASK / "test.json").write_text('{"a.wav": [')


def unknown_label():
    labels = json.loads((TASK / "train.json").read_text())
    next(iter(labels.values()))[0]["label"] = "whale"
    (TASK / "train.json").write_text(json.dumps(labels))


def missing_audio():
    min((TASK / "16000/test").iterdir()).unlink()


def another_rate():
    path = min((TASK / "16000/train").iterdir())
    soundfile.write(path, soundfile.read(path)[0], 22050)


def no_audio():
    min((TASK / "16000/test").iterdir()).write_bytes(b"no sound")


def no_folder():
    shutil.rmtree(TASK)


def corrupt_checkpoint():
    Path("bad.pt").write_bytes(b"no weights")


BAD = [  # what is done before, module, protocol, parts of the message
    (no_split_file, "eval_tasks.logmel", "linear", ["valid.json is missing"]),
    (empty_split, "eval_tasks.logmel", "linear", ["valid.json lists no clip"]),
    (no_json, "eval_tasks.logmel", "linear", ["test.json is not valid JSON"]),
    (unknown_label, "eval_tasks.logmel", "linear", ["train.json", "'whale'"]),
    (missing_audio, "eval_tasks.logmel", "linear", [".wav is missing"]),
    (no_audio, "eval_tasks.logmel", "linear", ["is not audio that can be read"]),
    (another_rate, "eval_tasks.logmel", "linear", ["22050 Hz", "expected 16000"]),
    (no_folder, "eval_tasks.logmel", "linear", ["no task folder", "prepare office"]),
    (None, "no_such_model_strong", "linear", ["no module no_such_model_strong", "hear-ptsed list"]),
    (None, "checkpoint --checkpoint none.pt", "linear", ["none.pt: no such checkpoint"]),
    (corrupt_checkpoint, "checkpoint --checkpoint bad.pt", "finetuned", ["bad.pt"]),
    (None, "eval_tasks.logmel", "finetuned", ["cannot be fine-tuned"]),
    (
        None,
        "eval_tasks.logmel --set optim.speed=1",
        "linear",
        ["the unknown optim.speed"],
    ),
    (None, "eval_tasks.logmel --set optim.lr=fast", "linear", ["optim.lr is 'fast'", "number"]),
    (None, 'eval_tasks.logmel --model-options {"a":1}', "linear", ["unexpected keyword"]),
]


@pytest.mark.parametrize(
    ("damage", "module", "protocol", "told"), BAD, ids=[" ".join(row[3]) for row in BAD]
)
def test_bad_input_is_named_in_one_line_and_nothing_is_written(
    here, capsys, damage, module, protocol, told
):
    if damage:
        damage()
    before = sorted(here.rglob("*"))
    options = ["--module", *module.split(), "--protocol", protocol, "--quiet"]
    assert main(["run", *OFFICE, *options, *SHORT]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and all(text in said for text in told), said
    after = [path for path in sorted(here.rglob("*")) if path.parts[-1] not in ("work", "features")]
    assert [path for path in after if path not in before and path.is_file()] == []


def test_an_unknown_task_is_answered_with_the_known_ones(here, capsys):
    assert (
        main(["run", "--task", "offices", "--module", "beats_strong", "--protocol", "linear"]) == 1
    )
    assert "unknown task 'offices'; known: dcase2016_task2, desed, " in capsys.readouterr().err


def test_a_corrupt_feature_cache_is_named_and_kept(here):
    command = ("run", *OFFICE, *LOGMEL, "--quiet")
    assert run(here, *command)[0] == 0
    array = next(here.glob("work/features/*/*/train-*/frames.npy"))
    content = array.read_bytes()
    array.write_bytes(content[:-1] + b"x")
    code, said = run(here, *command, "--set", "optim.lr=0.1")
    assert code == 1 and "cached features are damaged" in said.splitlines()[-1]
    assert array.read_bytes() == content[:-1] + b"x"
    assert len([*here.glob("results/**/*.json")]) == 1


def test_a_traceback_is_shown_on_demand_only(here, capsys):
    no_split_file()
    for debug in ([], ["--debug"]):
        assert main(["run", *OFFICE, *LOGMEL, *debug]) == 1
        told = capsys.readouterr().err
        assert "valid.json" in told and ("Traceback" in told) == bool(debug)


def test_weights_of_a_fine_tuning_are_exported(parts, here):
    options = [*OFFICE, *tuned(parts), "--set", "optim.epochs=1", "--export", "tuned.safetensors"]
    code, said = run(here, "run", *options, "--quiet")
    assert code == 0, said
    assert (here / "tuned.safetensors").stat().st_size > 100_000
    (here / "tuned.safetensors").unlink()
    code, said = run(here, "run", *options, "--quiet")
    assert code == 1 and "is finished and its weights are gone" in said


def test_export_takes_one_fold(here, capsys):
    options = [*PIANO, "--module", "eval_tasks.logmel", "--protocol", "finetuned"]
    assert main(["run", *options, "--export", "tuned.pt"]) == 2
    assert "--export writes one file; give --folds 1" in capsys.readouterr().err


DRAWN = {"resamples": 4, "seed": 0, "clips": 4, "names": "0123456789ab"}


def record(**changes) -> Record:
    """Of a made-up run."""
    values = {
        **{"task": "t", "title": "T", "primary": "f", "task_version": "t-v1"},
        **{"task_sha256": "0" * 64, "protocol": "linear", "module": "m", "model": "m"},
        **{"stage": "", "name": ""},
        **{"checkpoint": {"file": None, "sha256": None}, "untrained": False, "seed": 0},
        **{"scores": {"f": 0.5, "e": math.nan}, "per_class": {"a": {"f": math.nan}}},
        **{"ci95": {"f": (0.4, math.nan)}, "replicates": {"f": [0.4, 0.6, math.nan, 0.5]}},
        **{"draws": {"f": [DRAWN]}, "settings": {}, "conventions": {"f": "as usual"}},
        **{"hyperparameters": {}, "cost": {}, "clips": 4, "folds_of": 1},
        **{"published_task": False, "coverage": None, "folds": [{"f": math.nan}]},
        **{"seconds": 1.0, "software": {}, "hardware": {}, "commit": None, "command": ""},
        **{"started": "2026-01-01", "identity": "a" * 64},
    }
    return Record(**values | changes)


def write_half(path: Path) -> None:
    """What a process leaves that is killed while it writes."""
    temporary_beside(path).write_text("{")


def test_a_record_is_strict_json_and_comes_back_with_its_nans(tmp_path):
    path = tmp_path / "a" / "r.json"
    path.parent.mkdir()
    half = multiprocessing.get_context("fork").Process(target=write_half, args=(path,))
    half.start()
    half.join()
    assert len(list(path.parent.iterdir())) == 1
    records.write_record(record(), path)
    assert [one.name for one in path.parent.iterdir()] == ["r.json"]
    of_another_machine = f".hear_ptsed-1-{'0' * 8}-{'0' * 16}-other.json"
    (path.parent / of_another_machine).write_text("{")
    (path.parent / ".99-r.json").write_text("mine")
    records.write_record(record(), path)
    assert len([*path.parent.iterdir()]) == 3
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(records.read_record(path)) == repr(record())
    assert records.finished_record(path, "a" * 64) is not None
    with pytest.raises(ValueError, match="the record of another run"):
        records.finished_record(path, "b" * 64)
    assert records.finished_record(tmp_path / "none.json", "a" * 64) is None


def test_a_training_that_never_had_a_score_is_kept_with_null(tmp_path):
    """As heareval tells of a network that finds no event."""
    records.write_record(
        replace(record(), training=[{"best": -math.inf, "step": 9}]), tmp_path / "r.json"
    )
    assert records.read_record(tmp_path / "r.json").training == [{"best": None, "step": 9}]


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "not valid JSON"), ("[]", "schema 'list'"), ('{"schema": 1}', "lacks checkpoint, ci95")],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text, told):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        records.read_record(tmp_path / "r.json")


def test_a_paired_difference_is_that_of_equal_resamples():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 501))
    first[7] = math.nan
    a = record(replicates={"f": first.tolist()}, scores={"f": 0.6})
    b = record(replicates={"f": second.tolist()}, scores={"f": 0.5})
    difference, low, high = paired(a, b, "f")
    assert difference == pytest.approx(0.1)
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(first - second, (2.5, 97.5))))
    assert paired(a, a, "f") == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"draws": {"f": [DRAWN | {"names": "ba9876543210"}]}}, "same resamples of the same clips"),
        ({"draws": {"f": [DRAWN | {"seed": 1}]}}, "same resamples of the same clips"),
        ({"settings": {"f": {"median_frames": 7}}}, "computed in two ways"),
        ({"replicates": {}}, "no replicates of f to compare; there are those of: none"),
    ],
)
def test_records_of_other_draws_or_settings_are_not_paired(changes, told):
    with pytest.raises(ValueError, match=told):
        paired(record(), record(**changes), "f")
