"""A damaged last.ckpt or best.ckpt is told in one line with what to do; nothing goes on from it."""

import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from training_corpus import fit, recipe, start, write_corpus

from training.__main__ import main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def ended(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    command = start("fit", recipe(folder / "run.yaml", corpus), log=folder / "log").wait()
    assert command.code == 0, command.text
    run = folder / "run"
    # As after an evaluation that was not the best: files of their own, best.ckpt from before.
    (run / "best.ckpt").unlink()
    content = torch.load(run / "last.ckpt", weights_only=True)
    torch.save(content, run / "best.ckpt")
    return run


@pytest.fixture
def run(ended, tmp_path) -> Path:
    return shutil.copytree(ended, tmp_path / "run")


def changed(path: Path, **values) -> None:
    content = torch.load(path, weights_only=True) | values
    torch.save({key: value for key, value in content.items() if value is not None}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """A bit within the numbers of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 4
    path.write_bytes(content)


def another_kind(path: Path) -> None:
    path.write_text("no checkpoint at all\n" * 99)


def a_list(path: Path) -> None:
    torch.save([1, 2], path)


def weights_alone(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True)["state_dict"], path)


class Code:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def code(path: Path) -> None:
    torch.save({"recipe": Code()}, path)


def no_recipe(path: Path) -> None:
    changed(path, recipe=None)


def recipe_of_another_type(path: Path) -> None:
    changed(path, recipe=[1])


def bad_value(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["recipe"]["optim"]["weight_decay"] = -1.0
    torch.save(content, path)


def unknown_field(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["recipe"]["optim"]["speed"] = 3
    torch.save(content, path)


def state_of_another_type(path: Path) -> None:
    changed(path, state_dict=7, optimizer_states={})


def classes_of_another_type(path: Path) -> None:
    changed(path, classes=[1, 2, 3])


DAMAGE = {
    empty: "damaged",
    cut: "damaged",
    flipped: "the checksum of",
    another_kind: "damaged or no checkpoint",
    a_list: "is no checkpoint of `python -m training fit`: recipe, classes",
    weights_alone: "is no checkpoint of `python -m training fit`: recipe, classes",
    code: "damaged or no checkpoint",
    no_recipe: "recipe missing or of a wrong type",
    recipe_of_another_type: "recipe missing or of a wrong type",
    bad_value: "optim.weight_decay is -1.0; it must be greater than or equal to 0",
    unknown_field: "has the unknown optim.speed; known: name, lr",
    state_of_another_type: "state_dict, optimizer_states missing or of a wrong type",
    classes_of_another_type: "unnamed classes",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_state_is_told_with_the_way_to_go_on(run, tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    damage(run / "last.ckpt")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["fit", str(run / "recipe.yaml"), "--resume", f"--run.out={run}"]) == 1
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1 and DAMAGE[damage] in line
    way = (
        f"to go on from the best one, of step 6, first: cp {run / 'best.ckpt'} {run / 'last.ckpt'}"
    )
    assert line.endswith(way)
    assert {path: path.read_bytes() for path in before} == before
    assert not Path("ran").exists()


def test_the_way_to_go_on_is_one(run, corpus, tmp_path):
    flipped(run / "last.ckpt")
    command = fit(corpus, tmp_path, "--resume")
    assert command.code == 1, command.text
    words = command.last_line.partition("first: ")[2].split()
    assert words[0] == "cp"
    shutil.copy(*words[1:])
    assert fit(corpus, tmp_path, "--resume").code == 0


def test_without_a_whole_best_one_the_run_begins_again(run, capsys):
    for name in ("last.ckpt", "best.ckpt"):
        cut(run / name)
    assert main(["fit", str(run / "recipe.yaml"), "--resume", f"--run.out={run}"]) == 1
    line = capsys.readouterr().err.strip()
    assert line.endswith("remove it, and best.ckpt if there is one, to begin again")


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_state_is_not_exported(run, tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    damage(run / "best.ckpt")
    assert main(["export", str(run / "best.ckpt"), str(tmp_path / "out.pt")]) == 1
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1 and DAMAGE[damage] in line
    assert not (tmp_path / "out.pt").exists() and not Path("ran").exists()


def test_any_flipped_bit_is_told_or_changes_nothing(run, tmp_path, capsys):
    checkpoint, out = run / "best.ckpt", tmp_path / "out.pt"
    assert main(["export", str(checkpoint), str(out)]) == 0
    want, content = torch.load(out), checkpoint.read_bytes()
    rng, told = random.Random(0), 0
    for i in range(24):
        out.unlink(missing_ok=True)
        damaged = bytearray(content)
        ends = (2000, len(content)) if i % 2 else (len(content) - 3000, len(content))
        damaged[rng.randrange(*ends)] ^= 1 << rng.randrange(8)
        checkpoint.write_bytes(damaged)
        capsys.readouterr()
        if main(["export", str(checkpoint), str(out)]):
            line = capsys.readouterr().err.strip()
            assert len(line.splitlines()) == 1 and "Traceback" not in line
            told += 1
            continue
        got = torch.load(out)
        assert got.keys() == want.keys()
        assert all(torch.equal(value, got[name]) for name, value in want.items())
    assert told > 12


def test_fields_that_an_older_recipe_lacks_have_their_defaults(run, corpus, tmp_path):
    content = torch.load(run / "last.ckpt", weights_only=True)
    del content["recipe"]["augment"]["warp_min"], content["recipe"]["evaluation"]["bootstrap"]
    torch.save(content, run / "last.ckpt")
    command = fit(corpus, tmp_path, "--resume", "--augment.warp_min=0.5")
    assert command.code == 1
    assert "is of another run (augment.warp_min: 0.6 then, 0.5 now)" in command.last_line
    assert fit(corpus, tmp_path, "--resume").code == 0
