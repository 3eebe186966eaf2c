"""Drawn recipes, sweeps and annotation tables: a right result, or an error of one line."""

import csv
import io
import json
import math
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import eval_tasks.__main__
import training.__main__
from training.data.annotations import clip_key, read_events, read_names
from training.data.sources import names_in
from training.recipe import Recipe, as_dict, load

quick = settings(max_examples=150, deadline=None, derandomize=True)
few = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def command(main, *arguments: str) -> tuple[int, str]:
    """Exit code, and what it printed; a failure is one line on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([*arguments])
        except SystemExit as end:
            code = end.code
    said = err.getvalue().strip()
    assert len(said.splitlines()) == (code != 0), said
    assert "Traceback" not in said and len(said) < 1500
    return code, out.getvalue()


# Recipes

SECTIONS = {one.name: one.default_factory for one in fields(Recipe)}
FIELDS = [f"{name}.{one.name}" for name, cls in SECTIONS.items() for one in fields(cls)]
TEXTS = ("model.name", "model.start", "data.root", "data.classes", "run.out")
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(0, 12),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(["adam", "weak", "bigru", "1e-4", "linear", "nan", "", "all", "-.inf", "0x1f"]),
    st.text(max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(printed, given) -> bool:
    """Whether a value was taken as it was given, up to the kind of number."""
    if isinstance(given, list):
        return len(printed) == len(given) and all(map(same, printed, given))
    if isinstance(given, dict):
        return all(same(printed[key], value) for key, value in given.items())
    if isinstance(printed, float) and not isinstance(given, bool):
        return printed == float(given)
    return printed == given and isinstance(printed, bool) == isinstance(given, bool)


@pytest.fixture(scope="module")
def plain(folder) -> str:
    (folder / "plain.yaml").write_text("{}")
    return str(folder / "plain.yaml")


@quick
@given(name=st.sampled_from(FIELDS), value=values)
def test_a_field_takes_a_value_as_it_stands_or_refuses_it(plain, name, value):
    text = yaml.safe_dump(value, width=math.inf, allow_unicode=False).removesuffix("...\n").strip()
    code, out = command(training.__main__.main, "fit", plain, "--print", f"--{name}={text}")
    raw = name in TEXTS or (name == "data.names" and text != "null")
    if code == 0:
        section, key = name.split(".")
        assert same(yaml.safe_load(out)[section][key], text if raw else yaml.safe_load(text))
    assert code == 0 or not raw


@quick
@given(sections=st.dictionaries(st.sampled_from([*SECTIONS, "extends", "x"]), values, max_size=4))
def test_a_recipe_of_anything_is_read_or_refused(folder, sections):
    path = folder / "drawn.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    code, out = command(training.__main__.main, "fit", str(path), "--print")
    if code == 0:
        printed = yaml.safe_load(out)
        assert as_dict(load([path])) == printed and not {"extends", "x"} & sections.keys()
        for name, given_fields in sections.items():
            assert all(same(printed[name][key], v) for key, v in (given_fields or {}).items())


@quick
@given(content=st.binary(max_size=60) | st.text("{}[]&*<:-!|>'\"#%@ \n\ta1,", max_size=60))
def test_a_file_of_anything_is_no_traceback(folder, content):
    path = folder / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    command(training.__main__.main, "fit", str(path), "--print")
    command(eval_tasks.__main__.main, "sweep", str(path), "--dry-run")


@few
@given(
    st.fixed_dictionaries(
        {}, optional={key: values for key in ("tasks", "modules", "protocols", "seeds", "more")}
    )
)
def test_a_sweep_of_anything_is_planned_or_refused(folder, sweep):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    command(eval_tasks.__main__.main, "sweep", str(path), "--dry-run")


def bomb(merge: bool = False) -> str:
    """Yaml of a few hundred bytes for 10^12 values."""
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [" + ",".join("1" * 10) + "]"]
    for i in range(1, 12):
        row = ",".join([f"*a{i - 1}"] * 10)
        lines.append(f"a{i}: &a{i} " + (f"{{<<: [{row}]}}" if merge else f"[{row}]"))
    return "\n".join(lines)


DOORS = {
    "recipe": ("training", "fit", "bomb.yaml", "--print"),
    "extends": ("training", "fit", "child.yaml", "--print"),
    "option": ("training", "fit", "plain.yaml", "--print"),
    "set downstream": (
        *("eval_tasks", "run", "--task", "office", "--module", "eval_tasks.logmel"),
        *("--protocol", "linear", "--dry-run", "--set"),
    ),
    "sweep": ("eval_tasks", "sweep", "bomb.yaml"),
}


KINDS = ["lists", "merges", "itself", "deep", "digits"]
BOMBS = [("recipe", kind) for kind in KINDS] + [(door, "merges") for door in DOORS]
BOMBS += [("sweep", "lists"), ("option", "lists")]


@pytest.mark.parametrize(("door", "kind"), dict.fromkeys(BOMBS))
def test_a_yaml_bomb_is_refused_at_every_door(tmp_path, door, kind):
    flow = {
        "itself": "&a [*a]",
        "deep": "[" * 50_000,
        "digits": "1" * 60_000,
    }
    if kind in flow:
        text, inline = f"optim: {{lr: {flow[kind]}}}", flow[kind]
    else:
        text = bomb(kind == "merges")
        inline = "{" + ", ".join(text.splitlines()) + "}"
    (tmp_path / "bomb.yaml").write_text(text)
    (tmp_path / "plain.yaml").write_text("{}")
    (tmp_path / "child.yaml").write_text("extends: bomb.yaml\n")
    package, *words = DOORS[door]
    if door == "option":
        words.append(f"--optim.lr={inline}")
    if words[-1] == "--set":
        words.append(f"optim.lr={inline}")
    if "office" in words:
        from eval_tasks import tasks

        tasks.prepare("office", tmp_path / "tasks", synthetic=True)
        words += ["--folder", "office_synthetic-v1-tiny"]
    done = subprocess.run(
        [sys.executable, "-m", package, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = done.stderr.strip()
    assert done.returncode == 1 and len(said.splitlines()) == 1, said[-2000:]
    assert len(said) < 1000 and "not yaml" in said


# Tables

HEADER = ["filename", "onset", "offset", "event_label"]
names = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
) | st.sampled_from(
    [
        '"Dog',
        'Bird"',
        '"',
        '""',
        "NA",
        "nan",
        "a, b",
        " x",
        "'",
        "#1",
        "null",
        "-1",
        "\u2028",
        "\x0b",
    ]
)
times = st.integers(0, 9000).map(lambda ms: ms / 1000)
rows = st.lists(st.tuples(names, times, times, names), min_size=1, max_size=6)
quotes = settings(max_examples=300, deadline=None, derandomize=True)


def in_a_line(text: str, more: str = "") -> bool:
    """Whether a table can hold a text in one field."""
    return not set(text) & set("\n\r\0" + more)


def expected(events: list[tuple]) -> set[tuple]:
    return {(clip_key(clip), label, a, a + b + 0.001) for clip, a, b, label in events}


def read(path: Path) -> set[tuple]:
    events = read_events(path)
    parts = zip(events.clip, events.label, events.onset_s, events.offset_s, strict=True)
    return {(events.clips[c], events.labels[k], float(a), float(b)) for c, k, a, b in parts}


@quotes
@given(events=rows)
def test_a_tab_separated_table_gives_back_its_texts(folder, events):
    path = folder / "table.tsv"
    lines = [HEADER, *([clip, str(a), str(a + b + 0.001), label] for clip, a, b, label in events)]
    path.write_bytes("\n".join("\t".join(line) for line in lines).encode())
    if all(in_a_line(text, "\t") for row in events for text in (row[0], row[3])):
        assert read(path) == expected(events)
        return
    try:
        read(path)
    except ValueError as error:
        assert "table.tsv" in str(error) and len(str(error).splitlines()) == 1


@quotes
@given(events=rows)
def test_a_comma_separated_table_gives_back_its_texts_or_names_the_line(folder, events):
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((clip, a, a + b + 0.001, label) for clip, a, b, label in events)
    first = next(
        (i for i, row in enumerate(events) if not all(in_a_line(t) for t in (row[0], row[3]))), None
    )
    if first is None:
        assert read(path) == expected(events)
        return
    with pytest.raises(ValueError, match=rf"table.csv, line {first + 2}: ") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1


@quotes
@given(text=st.text('"\t,\n\r\0 ab1.', max_size=60), official=st.booleans(), tab=st.booleans())
def test_a_table_of_anything_is_read_or_refused_in_one_line(folder, text, official, tab):
    path = folder / "any.tsv"
    header = (
        ["segment_id", "start_time_seconds", "end_time_seconds", "label"] if official else HEADER
    )
    path.write_bytes((("\t" if tab else ",").join(header) + "\n" + text).encode())
    try:
        events = read_events(path, unknown="keep")
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and "any.tsv" in str(error)
    else:
        assert len(events) <= text.count("\n") + 1
    for reader in (read_names, names_in):
        try:
            reader(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1 and "any.tsv" in str(error)


@few
@given(classes=st.dictionaries(names, names, min_size=1, max_size=5))
def test_class_lists_give_back_their_names(folder, classes):
    tabs, commas, lines = folder / "names.tsv", folder / "names.csv", folder / "names.txt"
    if not all(in_a_line(text, "\t") for pair in classes.items() for text in pair):
        return
    tabs.write_bytes("".join(f"{mid}\t{name}\n" for mid, name in classes.items()).encode())
    assert read_names(tabs) == {mid: name for mid, name in classes.items() if mid != "mid"}
    with commas.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows((i, *pair) for i, pair in enumerate(classes.items()))
    assert read_names(commas) == classes
    different = list(dict.fromkeys(classes.values()))
    with commas.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["index", "display_name"], *enumerate(different)])
    assert names_in(commas) == different
    stripped = [name.strip() for name in different]
    lines.write_bytes("\n".join(different).encode())
    if all(stripped) and len(set(stripped)) == len(stripped):
        assert names_in(lines) == stripped


# One example of each fault, readable


def test_a_quote_in_a_tab_separated_table_is_a_character(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(
        "\t".join(HEADER) + '\na.wav\t0\t1\t"Dog\n"b.wav\t1\t2\tCat\nc.wav\t1\t2\tBird"\n'
    )
    assert read(path) == {("a", '"Dog', 0, 1), ('"b', "Cat", 1, 2), ("c", 'Bird"', 1, 2)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a.wav,0,1,"Dog\nb.wav,0,1,Cat\n', "line 2: a quote is not closed"),
        ('"a.wav,0,1,Dog\nb.wav",0,1,Cat\n', "line 2: a quote is not closed"),
        ('a.wav,0,1,"Dog"x\n', "line 2: ',' expected after"),
        ("a.wav,0,1,Dog\n\nb.wav,0,1\n", "line 4: 3 fields, and 4 in the first row"),
        ("a.wav,0,1,Dog,3\n", "line 2: 5 fields, and 4 in the first row"),
        ("a.wav,0,1,Do\0g\n", "line 2: a NUL or a carriage return"),
        ("a.wav,0,1,Dog\rb.wav,0,1,Cat\n", "line 2: a NUL or a carriage return"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_line(tmp_path, text, told):
    path = tmp_path / "a.csv"
    path.write_bytes((",".join(HEADER) + "\n" + text).encode())
    with pytest.raises(ValueError, match=f"a.csv, {told}"):
        read_events(path)


def test_a_column_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("\t".join([*HEADER, "event_label"]) + "\na.wav\t0\t1\tDog\tCat\n")
    with pytest.raises(ValueError, match="event_label, each once"):
        read_events(path)


def test_a_mid_with_two_names_and_a_class_list_with_a_mark_of_order_are_not_misread(tmp_path):
    path = tmp_path / "names.tsv"
    path.write_text("/m/1\tA\n/m/1\tB\n")
    with pytest.raises(ValueError, match="line 2: /m/1 is both A and B"):
        read_names(path)
    path.write_bytes("\ufeffDog\r\nCat\u2028s\r\n".encode())
    assert names_in(path) == ["Dog", "Cat\u2028s"]


def test_values_are_cut_before_they_are_shown(tmp_path):
    (tmp_path / "long.yaml").write_text(json.dumps({"optim": {"lr": "x" * 100_000}, "y" * 9999: 1}))
    assert command(training.__main__.main, "fit", str(tmp_path / "long.yaml"), "--print")[0] == 1
