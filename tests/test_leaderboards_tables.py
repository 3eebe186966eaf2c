"""Leaderboards: the tables that are written, and the commands."""

import csv
import io
import json
import math
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import pytest

from hear_ptsed.metrics.bootstrap import paired
from leaderboards import export
from leaderboards.__main__ import main
from leaderboards.collect import collect
from leaderboards.compare import compare
from leaderboards.stats import cells

F, ER = "event_onset_200ms_fms", "segment_1s_er"


@pytest.fixture
def mixed(tmp_path) -> Path:
    folder = tmp_path / "results"
    for seed in range(3):
        parts.write(folder, parts.record(seed=seed, f=0.8 + seed / 100))
        parts.write(folder, parts.record("m2d", "weak", seed, f=0.7, task="office"))
    no = {"file": None, "sha256": None}
    parts.write(folder, parts.record("asit", untrained=True, checkpoint=no))
    parts.write_heareval(folder / "embeddings")
    parts.write_heareval(folder / "embeddings", "other.plugin", score="0.123456789123", folds=5)
    return folder


def test_the_numbers_of_the_csv_are_those_of_the_records(mixed):
    all_cells = cells(collect([mixed]).entries)
    rows = list(csv.DictReader(io.StringIO(export.long_csv(all_cells))))
    assert len(rows) == len(all_cells)
    for row, cell in zip(rows, all_cells, strict=True):
        for key in ("mean", "std", "low", "high"):
            value = getattr(cell, key)
            assert row[key] == "" if math.isnan(value) else float(row[key]) == value
        assert (row["kind"], row["metric"]) == (cell.row.kind, cell.column.metric)
        assert row["untrained"] == str(cell.untrained) and row["small_data"] == str(cell.small_data)
        assert row["seeds"] == str(cell.seeds)
    assert {row["untrained"] for row in rows} == {"True", "False"}


def test_the_same_files_give_the_same_bytes_in_any_order(mixed):
    files = sorted(mixed.rglob("*.json"))
    files = [path for path in files if "embeddings" not in path.parts]
    texts = set()
    for seed in range(4):
        random.Random(seed).shuffle(files)
        collected = collect([*files, mixed / "embeddings"])
        own = cells(collected.entries)
        texts.add(
            export.long_csv(own)
            + export.markdown(own)
            + export.hear_csv(own)
            + str(collected.rejected)
            + export.latex(own)
            + export.json_text(own)
            + export.bibtex(own)
        )
    assert len(texts) == 1


def test_the_hear_csv_has_the_public_form(mixed):
    all_cells = cells(collect([mixed]).entries)
    rows = list(csv.reader(io.StringIO(export.hear_csv(all_cells))))
    assert rows == [
        ["Model", "URL", "Submission Date", "DCASE 2016", "Maestro 5h"],
        ["M2D weak", "", "", "0.710000000", ""],
        ["plugin", "", "", "", "0.123456789"],
    ]


def test_markdown_has_a_section_per_task_with_the_best_in_bold(mixed):
    parts.write(mixed, parts.record("fpasst", f=0.3))
    text = export.markdown(cells(collect([mixed]).entries))
    assert "## DCASE 2016 task 2\n\n### Measured" in text and "### Published" in text
    assert "| BEATs strong |  | **81.0** ± " in text
    assert "| ASiT strong (untrained) |" in text
    office = text[text.index("## Office (small)") :]
    assert office.splitlines()[6].endswith("†  |") or "†" in office.splitlines()[6]


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_text_in_a_csv_is_a_formula(mixed, start):
    all_cells = cells(collect([mixed]).entries)
    row = replace(all_cells[-1].row, model=f'{start}HYPERLINK("x")', stage="")
    for text in (export.long_csv([replace(all_cells[-1], row=row)]),):
        values = next(iter(csv.DictReader(io.StringIO(text))))
        assert values["name"].startswith(f"'{start}") and values["model"].startswith("'")


def test_the_json_has_the_numbers_of_the_csv_and_the_facts_of_its_models(mixed):
    all_cells = cells(collect([mixed]).entries)
    content = json.loads(export.json_text(all_cells))
    assert [*content] == ["schema", "models", "scores"]
    rows = list(csv.DictReader(io.StringIO(export.long_csv(all_cells))))
    assert [*content["scores"][0]] == [*rows[0]]
    for score, row in zip(content["scores"], rows, strict=True):
        assert row["mean"] == ("" if score["mean"] is None else repr(score["mean"]))
    known = {(model["model"], model["stage"]): model for model in content["models"]}
    assert known["beats", "strong"]["parameters"] == 90_311_792
    assert known["beats", "strong"]["cite"] == ["chen2023beats", "schmid2025effective"]


# All that a table may hold between its rules: text without anything that LaTeX takes for more.
TEXT = r"(?:[^\\&%$#_{}~^<>|\"]|\\[&%$#_{}]|\$(?:\\pm|'|-)\$"
TEXT += r"|\\text(?:backslash|asciitilde|asciicircum|less|greater|bar|quotedbl|dagger)\{\}"
TEXT += r"|\\dots\{\}|\\textbf\{[\d.]+\}|\\cite\{[\w,]+\})*"


def check_latex(text: str) -> int:
    """Number of tables, each with a head, rules and as many cells in a row as columns."""
    tables = text.split("\n\n")[1:]
    for table in tables:
        lines = table.strip().splitlines()
        begin, caption, tabular, top, head, middle = lines[:6]
        columns = len(re.fullmatch(r"\\begin\{tabular\}\{(lr+)\}", tabular)[1])
        assert (begin, top, middle) == (r"\begin{table}", r"\toprule", r"\midrule")
        assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        assert re.fullmatch(rf"\\caption\{{{TEXT}\}}", caption)
        for line in (head, *lines[6:-3]):
            assert line.endswith(r" \\")
            parts = line[:-3].split(" & ")
            assert len(parts) == columns and all(re.fullmatch(TEXT, part) for part in parts)
    return len(tables)


def test_the_latex_has_whole_tables_and_cites_what_the_bibliography_has(mixed):
    all_cells = cells(collect([mixed]).entries)
    text = export.latex(all_cells)
    titles = {(c.column.task, c.column.kind) for c in all_cells}
    assert check_latex(text) == len(titles)
    assert r"BEATs strong \cite{chen2023beats,schmid2025effective} & " in text
    assert r"& 81.0 $\pm$ " in text and r"\textbf{47.1}" in text  # the ensemble
    entries = export.bibtex(all_cells)
    cited = {key for keys in re.findall(r"\\cite\{(.*?)\}", text) for key in keys.split(",")}
    keys = re.findall(r"^@\w+\{(\w+),$", entries, re.M)
    assert len(keys) == len({*keys}) and cited == {*keys}
    assert "morocutti2025exploring" in keys and "yamnet" not in keys
    for entry in entries.strip().split("\n\n"):
        assert entry.count("{") == entry.count("}") and entry.endswith("\n}")


def test_no_text_in_the_latex_is_a_command(mixed):
    cell = next(c for c in cells(collect([mixed]).entries) if c.column.task == "office")
    row = replace(cell.row, model=r"\input{x} 100% a_b #1 ~^ $y$ <|> & \\", stage="")
    text = export.latex([replace(cell, row=row)])
    assert check_latex(text) == 1
    assert r"\textbackslash{}input\{x\} 100\% a\_b \#1" in text


def test_no_text_in_the_markdown_is_markup(mixed):
    cell = next(c for c in cells(collect([mixed]).entries) if c.column.task == "office")
    row = replace(cell.row, model="a|b <img> [x](y) `z`", stage="")
    line = next(x for x in export.markdown([replace(cell, row=row)]).splitlines() if "img" in x)
    assert line.startswith(r"| a\|b &lt;img&gt; \[x\](y) \`z\` |")


# Two modules compared.


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    for seed in range(2):
        parts.write(tmp_path / "a", parts.record(seed=seed, f=0.80))
        parts.write(tmp_path / "b", parts.record("m2d", seed=seed, f=0.78, er=0.41))
    return tmp_path / "a", tmp_path / "b"


def test_two_records_differ_by_what_pairing_them_says(tmp_path):
    made = parts.record(f=0.80), parts.record("m2d", f=0.78)
    comparison = compare(*(parts.write(tmp_path, one) for one in made))
    own = comparison.difference
    assert (own.value, own.low, own.high) == pytest.approx(paired(*made, F))
    assert comparison.titles == ("BEATs strong", "M2D strong")
    assert comparison.classes["class 3"] == pytest.approx((0.80, 0.78, 13))


def test_compare_prints_the_difference_and_the_classes_and_draws_them(two, tmp_path, capsys):
    assert main(["compare", *map(str, two), "--out", str(tmp_path / "out.html")]) == 0
    text = capsys.readouterr().out
    assert "+2.0" in text and "mean, %" in text and "class 10" in text
    assert "BEATs strong is better than M2D strong at the 95 % level" in text
    drawn = (tmp_path / "out.html").read_text("utf-8")
    assert "difference +2.0 (" in drawn and "M2D strong" in drawn
    assert main(["compare", *map(str, two), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text("utf-8") == drawn


def test_a_chart_in_an_unknown_format_is_refused_in_a_line(two, tmp_path, capsys):
    assert main(["compare", *map(str, two), "--out", str(tmp_path / "out.gif")]) == 1
    assert "out.gif: a chart is written as .html, .svg, .pdf or .png" in capsys.readouterr().err


def test_compare_takes_any_metric_and_knows_which_way_is_better(two, capsys):
    assert main(["compare", *map(str, two), "--metric", ER]) == 0
    text = capsys.readouterr().out
    assert "−0.01" in text and "BEATs strong is better" in text


def test_one_module_frozen_and_finetuned_is_compared_too(tmp_path):
    tuned = parts.record(protocol="finetuned", f=0.9)
    comparison = compare(parts.write(tmp_path, tuned), parts.write(tmp_path, parts.record()))
    assert comparison.difference.value == pytest.approx(0.1)
    assert comparison.titles == ("BEATs strong, finetuned", "BEATs strong, linear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "maestro"}, "their task differs: 'dcase2016_task2-hear2021-full' and 'maestro-"),
        ({"task_sha256": parts.digest("other")}, "their test data differs"),
        ({"settings": {F: {"median_frames": 7}}}, "their settings differs"),
        (
            {"scores": {ER: 0.5}, "conventions": {ER: parts.ER}}
            | dict.fromkeys(("ci95", "replicates", "draws", "curves"), {}),
            "no ev",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, capsys, changes, message):
    a, b = parts.record(), parts.record("m2d", **changes)
    assert main(["compare", str(parts.write(tmp_path, a)), str(parts.write(tmp_path, b))]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_of_several_modules_is_refused_with_their_names(two, capsys):
    assert main(["compare", str(two[0].parent), str(two[1])]) == 1
    assert "several modules: BEATs strong, M2D strong" in capsys.readouterr().err


def test_a_few_clips_give_no_verdict(tmp_path, capsys):
    made = (parts.record(f=0.9, clips=3), parts.record("m2d", f=0.1, clips=3))
    assert main(["compare", *(str(parts.write(tmp_path, one)) for one in made)]) == 0
    said = capsys.readouterr().out
    assert "+80.0" in said and "No verdict: 3 test clips are too few" in said


def test_a_file_that_cannot_be_read_is_not_left_out_of_a_comparison(two, tmp_path, capsys):
    seeds = parts.write(tmp_path / "m2d", parts.record("m2d")).parent
    (seeds / "seed1.json").write_text('{"schema": 1, "task')
    assert main(["compare", str(two[0]), str(seeds)]) == 1
    error = capsys.readouterr().err
    assert "seed1.json: not valid JSON" in error and "mend it or move it away" in error


def test_without_replicates_the_difference_has_no_interval(tmp_path, capsys):
    made = [parts.record(m, resamples=0) for m in ("beats", "m2d")]
    assert main(["compare", *(str(parts.write(tmp_path, one)) for one in made)]) == 0
    assert "No interval of the difference" in capsys.readouterr().out


# The command line.


def test_help_and_wrong_usage_have_their_exit_codes(capsys):
    for arguments, code in ((["--help"], 0), ([], 2), (["build"], 2), (["compare", "x"], 2)):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == code
    for command in ("build", "compare", "submit"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "usage: python -m leaderboards" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["build {} --out {}/site", "compare {} {}", "submit {}"])
def test_a_path_that_is_not_there_is_one_line_and_exit_code_1(tmp_path, capsys, command):
    missing = tmp_path / "missing"
    assert main(command.replace("{}", str(missing)).split()) == 1
    said = capsys.readouterr()
    if command.startswith("submit"):  # goes on to the next file
        assert said.out == f"{missing}: refused\n  cannot be read: No such file or directory\n"
    else:
        assert str(missing) in said.err and said.err.count("\n") == 1


def test_the_tables_need_neither_torch_nor_a_network():
    code = "import leaderboards.export, leaderboards.compare, leaderboards.submit, sys; "
    code += "assert not {'torch', 'requests', 'plotly'} & sys.modules.keys()"
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
