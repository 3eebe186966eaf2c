"""Recipes: which fields count, what is accepted, and what is refused in one line."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest

import training
from hear_ptsed.options import list_given
from training.__main__ import build_parser, main
from training.recipe import Recipe, Source, as_dict, from_dict, list_kinds, load

CODE = Path(training.__file__).parent
RECIPES = CODE / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))
SECTIONS = {one.name: one.default_factory for one in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("kind", list_kinds())
def test_every_kind_loads_alone_and_behind_it_the_published_behaviour(kind):
    assert load([kind]) == load([RECIPES / f"{kind}.yaml"])
    load([kind, "as_published"])


# Every field counts


def reads() -> set[tuple[str, str]]:
    """(name before the dot, attribute) of all that the code outside recipe.py reads."""
    attributes = set()
    for path in {*CODE.rglob("*.py")} - {CODE / "recipe.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = node.value
                name = getattr(base, "attr", getattr(base, "id", None))
                attributes.add((name, node.attr))
    return attributes


READS = reads()


@pytest.mark.parametrize("section", [*SECTIONS, "source"])
def test_every_field_of_a_recipe_is_read(section):
    cls = Source if section == "source" else SECTIONS[section]
    fields = [one.name for one in dataclasses.fields(cls)]
    unread = [
        name
        for name in fields
        if not any((base, name) in READS for base in (section, "options", "o"))
    ]
    if section == "data":  # Data.path adds the root
        unread.remove("root")
        assert ("data", "path") in READS
    assert unread == []
    assert any(section in pair for pair in READS)


# What is accepted


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_later_recipes_and_settings_win_key_by_key(tmp_path):
    base = write(tmp_path / "base.yaml", "optim: {lr: 1.0e-3, epochs: 5}\nmodel: {name: beats}\n")
    (tmp_path / "below").mkdir()
    child = write(tmp_path / "below/child.yaml", "extends: ../base.yaml\noptim: {lr: 2e-3}\n")
    more = write(tmp_path / "more.yaml", "optim: {batch: 8}\n")
    recipe = load([child, more], ["optim.batch=16", "model.sequence_model=bigru"])
    assert (recipe.optim.lr, recipe.optim.epochs, recipe.optim.batch) == (2e-3, 5, 16)
    assert (recipe.model.name, recipe.model.sequence_model) == ("beats", "bigru")
    assert load([base]).optim.lr == 1e-3
    assert load([write(tmp_path / "empty.yaml", "# nothing\n")]) == Recipe() == load([])


def test_texts_are_taken_as_they_stand_and_all_else_is_yaml():
    recipe = load(
        [],
        [
            "optim.lr=1e-4",  # which yaml takes for a text
            "optim.betas=[0.8, 0.95]",
            "model.sequence_model=null",
            "data.eval=[{audio: eval.hdf, events: a.tsv}, {audio: b}]",
            "run.loggers=[]",
            "model.compile=true",
            "optim.weight_decay=1",
            "run.out=2024-01-01 # [a: b]",
            "data.root=",
            "data.names=null",
        ],
    )
    assert recipe.optim.lr == 1e-4
    assert recipe.optim.betas == (0.8, 0.95)
    assert recipe.model.sequence_model is None
    assert recipe.data.eval == (Source("eval.hdf", "a.tsv"), Source("b"))
    assert recipe.run.loggers == ()
    assert recipe.model.compile is True
    assert recipe.optim.weight_decay == 1.0
    assert isinstance(recipe.optim.weight_decay, float)
    assert (recipe.run.out, recipe.data.root) == ("2024-01-01 # [a: b]", "")
    assert recipe.data.names is None
    assert load([], ["data.names=12"]).data.names == "12"


@pytest.mark.parametrize("path", [FILES[0], FILES[-1], RECIPES / "demo_student.yaml"])
def test_a_recipe_survives_json_and_back(path):
    recipe = load([path])
    values = json.loads(json.dumps(as_dict(recipe)))
    assert from_dict(values) == recipe
    assert set(values) == set(SECTIONS)


def test_paths_are_seen_from_the_root(tmp_path):
    recipe = load([], [f"data.root={tmp_path}"])
    assert recipe.data.path("a/b.h5") == tmp_path / "a/b.h5"
    assert recipe.data.path("/c.h5") == Path("/c.h5")


# What is refused, in one line that names the key and what is allowed

BAD = {
    "optimizer: {lr: 1}": "recipe has the unknown optimizer; known: model, data, sampling, augment",
    "optim: {lrr: 1}": "recipe has the unknown optim.lrr; known: name, lr, lr_end",
    "optim: 3": "recipe: optim is 3; it must have the fields name, lr",
    "optim: {lr: fast}": "optim.lr is 'fast'; it must be a valid number",
    "optim: {lr: true}": "optim.lr is True; it must be a valid number",
    "optim: {lr: null}": "optim.lr is None; it must be a valid number",
    "optim: {lr: [1]}": r"optim.lr is a list of 1; it must be a valid number",
    "optim: {lr: .nan}": "optim.lr is nan; it must be a finite number",
    "optim: {batch: 2.5}": "optim.batch is 2.5; it must be a valid integer",
    "optim: {batch: '8'}": "optim.batch is '8'; it must be a valid integer",
    "optim: {batch: true}": "optim.batch is True; it must be a valid integer",
    "optim: {betas: [0.9]}": r"recipe lacks optim.betas\[1\]",
    "optim: {betas: [0.9, 0.9, 0.9]}": "optim.betas is a list of 3; tuple should have at most 2",
    "optim: {betas: 0.9}": "optim.betas is 0.9; it must be a list",
    "optim: {betas: [0.9, x]}": r"optim.betas\[1\] is 'x'; it must be a valid number",
    "optim: {name: lion}": "optim.name is 'lion'; it must be 'adam', 'adamw' or 'sgd'",
    "optim: {schedule: [cosine]}": "optim.schedule is a list of 1; it must be 'cosine', 'linear'",
    "model: {compile: 1}": "model.compile is 1; it must be a valid boolean",
    "model: {compile: 'yes'}": "model.compile is 'yes'; it must be a valid boolean",
    "model: {name: 7}": "model.name is 7; it must be a valid string",
    "model: {sequence_model: gru}": "model.sequence_model is 'gru'; it must be 'bigru', 'bilstm'",
    "data: {train: clips.hdf}": "data.train is 'clips.hdf'; it must be a list",
    "data: {train: [clips.hdf]}": r"data.train\[0\] is 'clips.hdf'; it must have the fields audio,",
    "data: {train: [{audio: 3}]}": r"data.train\[0\].audio is 3; it must be a valid string",
    "data: {train: [{events: a.tsv}]}": r"recipe lacks data.train\[0\].audio",
    "data: {train: [{audio: a, x: b}]}": r"the unknown data.train\[0\].x; known: audio, events",
    "data: {names: 3}": "data.names is 3; it must be a valid string",
    "data: {max_unreadable: 1.0}": r"data.max_unreadable is 1.0; .* less than 1 \(0 <= x < 1\)",
    "run: {loggers: [tensorboard, mlflow]}": r"run.loggers\[1\] is 'mlflow'; it must be 'tensor",
    "run: {out: 2024-01-01}": "recipe is no plain data .*date.*; quote what is text",
    "extra: {clips: [{audio: a}]}": "extra.clips has 1 sources.*data.labels is strong with 0 teach",
    "extra: {weight: 1}": r"extra.weight is 1; it must be less than 1 \(0 < x < 1\)",
    "distill: {teachers_hear: all}": "distill.teachers_hear is 'all'; it must be 'audio' or 'augm",
    "optim: {lr_above: 0}": "optim.lr_above is 0; it must be greater",
    "augment: {wavmix_p: 1.2}": r"augment.wavmix_p is 1.2; it must be less .* \(0 <= x <= 1\)",
    "augment: {warp_p: -0.1}": r"augment.warp_p is -0.1; it must be greater .* \(0 <= x <= 1\)",
    "augment: {time_mask: 0.01}": "augment.time_mask is 0.01; it must be 0, or 0.052 to 1",
    "distill: {weight: 2, teachers: [a]}": r"distill.weight is 2; .* \(0 <= x <= 1\)",
    "distill: {weight: 0.9}": "distill.weight is 0.9 with 0 pseudo-label files and 0 teachers",
    "distill: {pseudo_labels: [a.h5]}": "distill.weight is 0.0 with 1 pseudo-label files",
    "distill: {weight: 1, pseudo_labels: [a], teachers: [b]}": "pseudo_labels and teachers",
    "optim: {lr: 0}": r"optim.lr is 0; .* \(1e-09 <= x <= 10\)",
    "optim: {epochs: -1}": r"optim.epochs is -1; .* \(1e-09 <= x <= 1000000\)",
    "optim: {batch: 10, accumulate: 4}": "optim.batch 10 cannot be cut into optim.accumulate 4",
    "optim: {ema: 1}": r"optim.ema is 1; it must be less than 1 \(0 <= x < 1\)",
    "[1, 2]": "bad.yaml holds a list of 2; expected sections",
    "0": "bad.yaml holds 0; expected sections",
    "optim: {lr: [}": "bad.yaml: not yaml ",
    "optim: {lr: 1}\noptim: {batch: 8}": "bad.yaml: not yaml .'optim' occurs 2 times in one place",
    "optim: &a [*a]": "bad.yaml: not yaml .more than 200000 values",
    "extends: 3": "bad.yaml: extends is 3; expected the path of a recipe",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_a_bad_recipe_is_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ValueError, match=message) as caught:
        load([path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr", "'optim.lr': expected section.field=value"),
        ("lr=1", "'lr=1': expected section.field=value"),
        ("a.b.c=1", "'a.b.c=1': expected section.field=value"),
        ("optim.lr=[1", r"'optim.lr=\[1': not yaml"),
        ("optim.rate=1", "recipe has the unknown optim.rate; known: name, lr"),
        ("optimizer.lr=1", "recipe has the unknown optimizer; known: model, data"),
        ("optim.lr=fast", "optim.lr is 'fast'; it must be a valid number"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        load([], [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--optim.lrr=1", "unknown '--optim.lrr=1'; similar: --optim.lr"),
        ("--set=optim.lr=1", "unknown '--set=optim.lr=1'"),
        ("--optim", "unknown '--optim'"),  # no abbreviations: --optim.name is to stay so
        ("--optim.lr", "argument --optim.lr: expected one argument"),
    ],
)
def test_an_unknown_option_is_told_in_one_line_with_those_like_it(capsys, word, message):
    with pytest.raises(SystemExit) as end:
        main(["fit", "teacher", word])
    line = capsys.readouterr().err.strip()
    assert end.value.code == 2 and len(line.splitlines()) == 1
    assert message in line and line.endswith("--help lists the options")


def test_the_last_of_an_option_and_its_short_form_counts():
    for words, root in ((["--data=a", "--data.root=b"], "b"), (["--data.root=b", "--data=a"], "a")):
        args = build_parser().parse_args(["fit", "teacher", *words])
        assert load(args.recipe, list_given(args)).data.root == root


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(FileNotFoundError, match="'pupil' is no kind of recipe; .*student, .*yaml"):
        load(["pupil"])


def test_missing_recipes_and_circles_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such recipe"):
        load([tmp_path / "none.yaml"])
    lost = write(tmp_path / "lost.yaml", "extends: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"gone.yaml: no such recipe"):
        load([lost])
    own = write(tmp_path / "own.yaml", "extends: own.yaml\n")
    with pytest.raises(ValueError, match=r"own.yaml extends itself"):
        load([own])
    a = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: ./a.yaml\n")
    with pytest.raises(ValueError, match=r"a.yaml extends itself"):
        load([a])
