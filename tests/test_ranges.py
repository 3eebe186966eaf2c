"""Every number that a user can set has a range, which the commands check before they begin."""

import argparse
import json
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

import eval_tasks.__main__
import hear_ptsed.cli
import training.__main__
from eval_tasks.fit import recipe as downstream
from eval_tasks.fit.recipe import recipe
from eval_tasks.request import Request
from eval_tasks.sweep import Sweep
from eval_tasks.tasks import find_task
from training.recipe import Recipe, load

COMMANDS = {
    "hear_ptsed": hear_ptsed.cli,
    "training": training.__main__,
    "eval_tasks": eval_tasks.__main__,
}


def numbers(kind: Any, place: str = "", limits: tuple = ()) -> list[tuple[str, type, dict]]:
    """(place, int or float, bounds) of every number within a type; "[0]" stands for any item."""
    if get_origin(kind) is Annotated:
        parts = [p for one in kind.__metadata__ for p in getattr(one, "metadata", [one])]
        return numbers(get_args(kind)[0], place, (*limits, *parts))
    if kind in (int, float):
        names = ("ge", "gt", "le", "lt")
        return [(place, kind, {n: getattr(p, n) for p in limits for n in names if hasattr(p, n)})]
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        dot = "." if place else ""
        return [
            one for f in fields(kind) for one in numbers(hints[f.name], f"{place}{dot}{f.name}")
        ]
    inside = [one for one in get_args(kind) if one not in (NoneType, ...)]
    place += "[0]" * (get_origin(kind) is tuple)
    return [number for one in inside[:1] for number in numbers(one, place, limits)]


TRAINING, DOWNSTREAM = numbers(Recipe), numbers(downstream.Recipe)
ALL = {"fit": TRAINING, "downstream": DOWNSTREAM, "run": numbers(Request), "sweep": numbers(Sweep)}


def beyond(kind: type, limits: dict) -> list[float]:
    """Values just outside of both ends of a range."""
    low = limits["ge"] - 1 if "ge" in limits else limits["gt"]
    high = limits["le"] * 2 + 1 if "le" in limits else limits["lt"]
    return [kind(low), kind(high)]


@pytest.mark.parametrize("door", ALL)
def test_there_is_no_number_without_a_range(door):
    assert len(ALL[door]) >= {"fit": 35, "downstream": 25, "run": 6, "sweep": 5}[door]
    for place, _kind, limits in ALL[door]:
        assert len(limits.keys() & {"ge", "gt"}) == 1, f"{place} has no lower limit"
        assert len(limits.keys() & {"le", "lt"}) == 1, f"{place} has no upper limit"


def refused(capsys, code: int) -> str:
    said = capsys.readouterr()
    assert code and not said.out, said
    line = said.err.strip()
    assert len(line.splitlines()) == 1 and "Traceback" not in line, line
    return line


def stop(main: Any, arguments: list[str]) -> int:
    """Exit code of a command, also where the reader of its options ends it."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("place", "kind", "limits"), TRAINING, ids=[place for place, *_ in TRAINING]
)
def test_a_value_outside_is_refused_by_fit_with_its_name_and_the_range(
    tmp_path, capsys, place, kind, limits
):
    (tmp_path / "recipe.yaml").write_text("model: {start: none}\n")
    name, _, item = place.partition("[")
    for value in beyond(kind, limits):
        text = f"[{value}, {value}]" if item else str(value)
        command = ["fit", str(tmp_path / "recipe.yaml"), "--print", f"--{name}={text}"]
        line = refused(capsys, stop(training.__main__.main, command))
        assert f"{place} is " in line and str(value) in line
        for limit in limits.values():
            assert str(limit) in line
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("place", "kind", "limits"), DOWNSTREAM, ids=[place for place, *_ in DOWNSTREAM]
)
def test_a_value_outside_is_refused_for_a_downstream_training(place, kind, limits):
    name, _, item = place.partition("[")
    for value in beyond(kind, limits):
        text = f"[{value}, {value}]" if item else str(value)
        with pytest.raises(ValueError, match="it must be") as caught:
            recipe(find_task("office"), "linear", [f"{name}={text}"])
        assert f"{place} is " in str(caught.value) and "\n" not in str(caught.value)


SWEEP = [row for row in ALL["sweep"] if row[0] != "seeds[0]"]


@pytest.mark.parametrize(("place", "kind", "limits"), SWEEP, ids=[place for place, *_ in SWEEP])
def test_a_value_outside_is_refused_in_a_sweep(tmp_path, capsys, place, kind, limits):
    section, name = place.split("[0].")
    file = tmp_path / "sweep.yaml"
    for value in beyond(kind, limits):
        entries = {
            "tasks": [{"task": "office"}],
            "modules": [{"module": "beats_strong"}],
            "protocols": [{"protocol": "finetuned"}],
        }
        entries[section][0][name] = value
        file.write_text(json.dumps(entries))
        line = refused(capsys, eval_tasks.__main__.main(["sweep", str(file), "--dry-run"]))
        assert f"{place} is {value}" in line and "sweep.yaml" in line


@pytest.mark.parametrize("seeds", [0, -1, 10**9, [-1], [2**40], [1.5]])
def test_seeds_of_a_sweep_outside_are_refused(tmp_path, capsys, seeds):
    values = {"tasks": ["office"], "modules": ["m"], "protocols": ["finetuned"], "seeds": seeds}
    (tmp_path / "sweep.yaml").write_text(json.dumps(values))
    arguments = ["sweep", str(tmp_path / "sweep.yaml"), "--dry-run"]
    assert "seeds" in refused(capsys, eval_tasks.__main__.main(arguments))


def test_a_sweep_of_more_runs_than_anybody_wants_is_refused(tmp_path, capsys):
    many = [f"m{i}" for i in range(2000)]
    values = {"tasks": many, "modules": many, "protocols": ["finetuned"]}
    (tmp_path / "sweep.yaml").write_text(json.dumps(values))
    line = refused(capsys, eval_tasks.__main__.main(["sweep", str(tmp_path / "sweep.yaml")]))
    assert "asks for 4000000 runs; allowed are 100000" in line


OPTIONS = {
    "detect": ["detect", "a.wav", "--model", "beats"],
    "embed": ["embed", "a.wav", "--model", "beats", "--out", "o"],
    "evaluate": ["evaluate", "x.pt", "--audio", "a"],
    "pseudo-label": ["pseudo-label", "x.pt", "--audio", "a", "--out", "o"],
    "pack": ["pack", "--audio", "a", "--out", "o"],
    "demo": ["demo"],
    "run": ["run", "--task", "office", "--module", "m", "--protocol", "linear"],
    "sweep": ["sweep", "s.yaml"],
    "hear-all": ["hear-all", "m"],
    "stream": ["stream", "--model", "beats"],
    "prepare": ["prepare", "office"],
}


def parsers(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> list[tuple]:
    """(words of a command, its parser), with all sub-commands."""
    commands = [(words, parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                commands += parsers(sub, (*words, name))
    return commands


NUMBERS = [
    (package, words[0], action.option_strings[0])
    for package, module in COMMANDS.items()
    for words, parser in parsers(module.build_parser())
    for action in parser._actions
    if action.metavar in ("N", "S", "SHARE")
]


def test_no_option_takes_a_number_without_a_range():
    assert len(NUMBERS) >= 20
    for package, module in COMMANDS.items():
        for words, parser in parsers(module.build_parser()):
            numbers = [a for a in parser._actions if a.type in (int, float) and not a.choices]
            bare = [a.option_strings for a in numbers]
            assert bare == [], (package, words)


@pytest.mark.parametrize("row", NUMBERS, ids=[f"{command}{flag}" for _, command, flag in NUMBERS])
def test_an_option_outside_its_range_is_refused_in_one_line(tmp_path, monkeypatch, capsys, row):
    package, command, flag = row
    monkeypatch.chdir(tmp_path)
    for value in ("-1", "nan", "1e99", "many", "1" * 5000, ""):
        arguments = [*OPTIONS[command], f"{flag}={value}"]
        line = refused(capsys, stop(COMMANDS[package].main, arguments))
        assert f"argument {flag}: " in line and value[:50] in line and " N <" in line
        assert len(line) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "command", "flag"), NUMBERS)
def test_help_tells_the_range_of_every_number(capsys, package, command, flag):
    with pytest.raises(SystemExit):
        COMMANDS[package].main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    told = text.rpartition(f" {flag} N ")[2]
    assert " N <" in told[:150], told[:150]


FIELDS = [(name, part.default_factory) for name, part in Recipe.__dataclass_fields__.items()]
WORDS = {"INT": int, "NUMBER": float, "TEXT": str, "BOOL": bool}


@pytest.mark.parametrize(("section", "cls"), FIELDS, ids=[name for name, _ in FIELDS])
def test_help_of_fit_tells_type_meaning_range_and_default_of_every_field(capsys, section, cls):
    with pytest.raises(SystemExit):
        training.__main__.main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split()).partition(" model: ")[2]
    ranges = {place: limits for place, _, limits in TRAINING}
    for field in fields(cls):
        name = f"{section}.{field.name}"
        word, said = text.partition(f" --{name} ")[2].split(" --")[0].split(" ", 1)
        value = getattr(cls(), field.name)
        default = value if isinstance(value, str) else json.dumps(value)
        meaning = said.partition(f"default {default})")[0].rpartition(" (")[0]
        assert len(meaning) > 4, f"{name}: {said}"
        assert word in {*WORDS, "CHOICE", "LIST"}, name
        if word in WORDS and value is not None:
            assert type(value) is WORDS[word], name
        for limit in ranges.get(name, {}).values():
            assert str(limit) in said and f"< {word} <" in said.replace("=", ""), said


def test_what_print_shows_is_a_recipe_with_its_ranges(tmp_path, capsys):
    file = tmp_path / "printed.yaml"
    file.write_text("model: {start: 'a: # b'}\ndata: {train: [{audio: x}, {audio: y}]}\n")
    assert training.__main__.main(["fit", str(file), "--print"]) == 0
    text = capsys.readouterr().out
    assert "  ema: 0.0  # 0 <= ema < 1\n" in text
    assert "  schedule: cosine  # cosine, linear, exp" in text
    (tmp_path / "again.yaml").write_text(text)
    assert load([tmp_path / "again.yaml"]) == load([file])


def test_a_run_too_short_for_one_step_is_refused(tmp_path, capsys):
    from training_corpus import write_corpus

    corpus = write_corpus(tmp_path / "corpus")
    source = f"{{audio: {corpus / 'train.hdf'}, events: {corpus / 'train.tsv'}}}"
    settings = [f"data.train=[{source}]", "model.name=frame_mn02", "model.start=none"]
    settings += ["optim.epochs=1e-9", "optim.warmup_steps=0", "run.accelerator=cpu"]
    settings += ["data.workers=0", f"run.out={tmp_path / 'run'}"]
    (tmp_path / "recipe.yaml").write_text("")
    words = [f"--{setting}" for setting in settings]
    assert training.__main__.main(["fit", str(tmp_path / "recipe.yaml"), *words]) == 1
    assert "no step would be made; give optim.epochs" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "model.pt").exists()
