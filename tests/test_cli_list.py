"""`hear-ptsed list`, `download` and the help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hear_ptsed
from hear_ptsed import cli, registry
from hear_ptsed.checkpoints import save_checkpoint


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path))
    return tmp_path


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hear-ptsed {hear_ptsed.__version__}\n"


def test_the_list_names_every_module_and_what_is_at_hand(empty_cache, capsys):
    (empty_cache / "BEATs_weak.pt").write_bytes(b"x")
    assert run("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(registry.list_models())
    assert [row["module"] for row in listed if row["cached"]] == ["hear_ptsed.plugins.beats_weak"]
    assert run("list") == 0
    header, *lines, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODEL", "STAGES", "PARAMETERS", "DIM", "AT", "HAND"]
    groups = [line for line in lines if line.endswith(":")]
    assert groups == ["PretrainedSED:", "EfficientSED:", "public:"]
    assert [family + ":" for family in dict.fromkeys(row["family"] for row in listed)] == groups
    cells = [line.split("  ") for line in lines if line not in groups]
    cells = {model: [cell.strip() for cell in more if cell] for model, *more in cells}
    for model in dict.fromkeys(row["model"] for row in listed):
        stages = [row["stage"] for row in listed if row["model"] == model]
        assert cells[model][0] == ", ".join(stages)
        assert cells[model][-1] == {"beats": "weak"}.get(model, "-")
    assert "hear_ptsed.plugins.atst_frame_ssl" in last
    assert max(map(len, [header, *lines, last])) <= 100


def test_the_list_of_one_family(empty_cache, capsys):
    assert run("list", "--family", "EfficientSED", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 35 and {row["family"] for row in listed} == {"EfficientSED"}
    assert run("list", "--family", "public") == 0
    _, title, line, _ = capsys.readouterr().out.splitlines()
    assert title == "public:" and line.startswith("yamnet ")
    with pytest.raises(SystemExit):
        run("list", "--family", "other")
    assert "'pretrainedsed', 'efficientsed', 'public'" in capsys.readouterr().err


def test_download_prints_paths_and_goes_on_after_a_failure(empty_cache, capsys, monkeypatch):
    monkeypatch.setitem(
        registry.RELEASES, "PretrainedSED", "http://127.0.0.1:9/"
    )  # nobody listens there
    path = empty_cache / "frame_mn06.pt"
    save_checkpoint(registry.build("frame_mn06", n_classes=2), path)
    modules = ["beats_strong", "hear_ptsed.plugins.frame_mn06_strong"]
    assert run("download", *modules) == 1
    out, error = capsys.readouterr()
    assert out == f"frame_mn06_strong\t{path}\n"
    assert error.count("\n") == 1 and "beats_strong" in error


def test_help_and_the_list_are_instant_because_they_do_not_import_torch(empty_cache):
    code = "import sys, hear_ptsed.cli as c; c.build_parser(); c.main(['list']); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(SystemExit) as stop:
        run("detect", "--help")
    assert stop.value.code == 0
