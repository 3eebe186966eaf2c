"""`hear-ptsed detect --format parquet` and `embed`: a row for each file, nothing twice or lost."""

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpus_parts import (
    DETECT,
    EMBED,
    MODEL,
    N_PARTS,
    alive,
    children,
    rows,
    run,
    sounds,
    start,
    wait_for,
)

from hear_ptsed import corpus, hear
from hear_ptsed.audio import read_audio
from hear_ptsed.windows import over_clips, over_windows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """11 files, one of them of 23 s."""
    made = sounds(tmp_path_factory.mktemp("sounds") / "audio", 10)
    soundfile.write(
        made / "long.wav", 0.1 * np.random.default_rng(1).standard_normal(368000), 16000
    )
    return made


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(corpus, "PART_FILES", 3)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(corpus, "PART_FILES", 3)
        assert run(*DETECT, folder, "--out", out) == 1
    return rows(out)


def refused(capsys, *arguments) -> str:
    """What is said of a command that is refused."""
    try:
        assert run(*arguments) == 1
    except SystemExit as ended:
        assert ended.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "mean nothing" not in x]
    return line


def test_a_folder_gives_a_row_for_each_audio_file_with_the_events_of_detect(
    folder, undisturbed, tmp_path, capsys
):
    assert len(undisturbed) == 11
    names = [Path(row["file"]).relative_to(folder) for row in undisturbed]
    assert names == sorted(names) and Path("below/0001.flac") in names
    failed = {Path(row["file"]).name: row for row in undisturbed if row["error"]}
    assert set(failed) == {"bad.wav", "empty.mp3"}
    for row in failed.values():
        assert row["error"].startswith("not readable as audio") and row["events"] is None
    one_by_one = ["detect", *MODEL, "--threshold", "0.512", "--format", "json"]
    assert run(*one_by_one, folder, "--out", tmp_path) == 1
    for row in undisturbed:
        if row["error"]:
            continue
        alone = json.loads((tmp_path / f"{Path(row['file']).stem}.json").read_text())
        assert alone["file"] == row["file"]
        assert row["duration_s"] == pytest.approx(alone["duration_s"], abs=1e-6)
        said = [(e["label"], e["onset_s"], e["offset_s"]) for e in row["events"]]
        assert said == [
            (e["label"], pytest.approx(e["onset_s"]), pytest.approx(e["offset_s"], abs=1e-6))
            for e in alone["events"]
        ]
        for ours, theirs in zip(row["events"], alone["events"], strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert sum(len(row["events"] or ()) for row in undisturbed) > 100


def test_the_manifest_tells_settings_and_totals_and_bad_files_come_last(folder, tmp_path, capsys):
    assert run(*DETECT, folder, "--out", tmp_path / "out", "--median", 5) == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    settings, made = manifest["settings"], rows(tmp_path / "out")
    assert (settings["model"], settings["untrained"]) == ("frame_mn04", True)
    assert (settings["threshold"], settings["median"], settings["files"]) == (0.512, 5, 11)
    assert manifest["totals"] == {
        "files": 11,
        "hours": pytest.approx(sum(row["duration_s"] or 0 for row in made) / 3600),
        "frames": sum(row["frames"] or 0 for row in made),
        "events": sum(len(row["events"] or ()) for row in made),
        "failed": 2,
    }
    said = capsys.readouterr().err.splitlines()
    assert "bad.wav: not readable" in said[-3] and "empty.mp3" in said[-2]
    assert said[-1].startswith(f"{tmp_path / 'out'}: 11 files, 0.0") and "2 failed" in said[-1]


def test_a_list_is_relative_to_its_own_folder_and_names_every_format(folder, tmp_path, capsys):
    path = folder / "list.txt"
    path.write_text("below/0001.flac\r\n\nbelow/../0000.wav\nmissing.wav\n0000.wav\n")
    assert run(*DETECT, "--list", path, "--out", tmp_path / "out") == 1
    made = rows(tmp_path / "out")
    assert len(made) == 3  # 0000.wav once, however it is named
    path_of = {Path(row["file"]).name: row for row in made}
    assert list(path_of) == ["0001.flac", "0000.wav", "missing.wav"]
    assert path_of["missing.wav"]["error"] == "no such file or directory"
    assert path_of["missing.wav"]["sha256"] is None
    path.write_text("below/0001.flac\n")
    assert run("detect", *MODEL, "--list", path, folder / "0000.wav", "--out", tmp_path / "t") == 0
    assert {file.name for file in (tmp_path / "t").iterdir()} == {"0000.tsv", "0001.tsv"}
    path.write_text("\n")
    capsys.readouterr()
    assert run(*DETECT, "--list", path, "--out", tmp_path / "none") == 1
    assert "list.txt names no files" in capsys.readouterr().err
    path.unlink()


def test_embeddings_are_those_of_the_model_alone(folder, tmp_path):
    assert run("embed", *MODEL, folder, "--out", tmp_path / "frames") == 1
    assert run("embed", *MODEL, folder, "--hop", 20, "--out", tmp_path / "hop") == 1
    assert run(*EMBED, folder, "--out", tmp_path / "scene") == 1
    model, finer = (
        hear.load_model("frame_mn04", None, untrained=True, **more) for more in ({}, {"hop": 20})
    )
    made = zip(*(rows(tmp_path / name) for name in ("frames", "hop", "scene")), strict=True)
    for frames, hop, scene in made:
        if frames["error"]:
            assert frames["embeddings"] is hop["embeddings"] is scene["embeddings"] is None
            continue
        audio = read_audio(Path(frames["file"]))[0][None]
        alone = hear.get_timestamp_embeddings(audio, model)[0][0]
        assert frames["frames"] == len(alone) == scene["frames"]
        torch.testing.assert_close(torch.tensor(frames["embeddings"]), alone, rtol=1e-4, atol=1e-4)
        mean = torch.tensor(scene["embeddings"])
        torch.testing.assert_close(mean, alone.mean(0), rtol=1e-4, atol=1e-4)
        alone = hear.get_timestamp_embeddings(audio, finer)[0][0]
        torch.testing.assert_close(torch.tensor(hop["embeddings"]), alone, rtol=1e-4, atol=1e-4)


def test_other_settings_or_files_are_refused_and_the_same_change_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"
    run(*EMBED, folder, "--out", out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    capsys.readouterr()
    assert "overlap 0.0 (asked: 5.0)" in refused(
        capsys, *EMBED, folder, "--out", out, "--overlap", 5
    )
    assert "files 11 (asked: 1)" in refused(capsys, *EMBED, folder / "0000.wav", "--out", out)
    assert run(*EMBED, folder, "--out", out) == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("part-*")} == before
    (out / "part-00001.parquet").unlink()
    assert run(*EMBED, folder, "--out", out) == 1
    assert len(rows(out)) == 11


def test_the_queries_of_the_documentation_answer(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(*DETECT, folder, "--out", "events", "--threshold-of", "Bark", 0.3)
    text = (Path(__file__).parents[1] / "docs" / "corpus.md").read_text()
    names = {}
    for code in text.split("```python\n")[1:]:
        # As users copy it; no random score is as high as that.
        exec(code.partition("```")[0].replace("> 0.6)", "> 0.48)"), names)
    expected = {
        (row["file"], event["onset_s"])
        for row in rows(Path("events"))
        for event in row["events"] or ()
        if event["label"] == "Bark" and event["score"] > 0.48
    }
    barks = names["barks"]
    assert expected and {*zip(barks["file"], barks["onset_s"], strict=True)} == expected
    again = Path("again.txt").read_text().splitlines()
    assert {Path(line).name for line in again} == {"bad.wav", "empty.mp3"}


def test_wrong_usage_is_one_line(folder, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    wav = folder / "0000.wav"
    assert "needs --out DIR" in refused(capsys, *DETECT, wav)
    assert "--plot and --force are of" in refused(capsys, *DETECT, wav, *out, "--plot")
    assert "of --format parquet" in refused(capsys, "detect", *MODEL, wav, "--jobs", 2)
    assert "of --format parquet" in refused(capsys, "detect", *MODEL, wav, "--ray-address", "x")
    assert "takes all of the cluster" in refused(
        capsys, *DETECT, wav, *out, "--jobs", 2, "--ray-address", "local"
    )
    assert "give AUDIO" in refused(capsys, *DETECT, *out)
    assert "device 'quantum' cannot be used" in refused(
        capsys, *EMBED, wav, *out, "--device", "quantum"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_without_audio_is_a_bad_file(folder, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert run(*DETECT, tmp_path / "none", folder / "0000.wav", "--out", tmp_path / "out") == 1
    none, wav = rows(tmp_path / "out")
    assert none["error"].startswith("is a folder") and wav["error"] is None


def test_parts_are_cut_by_files_and_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART_BYTES", 100)
    sizes = [10, 10, 10, 10, 95, 10, 500, 1]
    files = [tmp_path / f"{i}.wav" for i in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    planned, digest = corpus.cut_parts(files)
    assert [[int(file.stem) for file in part] for part in planned] == [
        [0, 1, 2],
        [3],
        [4],
        [5],
        [6],
        [7],
    ]
    files[0].write_bytes(bytes(11))
    assert corpus.cut_parts(files)[1] != digest


@pytest.mark.parametrize("overlap_s", [0.0, 5.0])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_windows_of_clips_share_calls_and_give_what_each_clip_gives_alone(overlap_s, batch):
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 160000, 500000, 37, 160001, 320000]
    clips = [torch.randn(length, generator=generator) for length in lengths]
    calls = []

    def model(audio: torch.Tensor) -> torch.Tensor:
        """Levels of the frames (N, 250, 2), and where they are in the window."""
        calls.append(len(audio))
        levels = audio.unflatten(1, (250, 640)).std(2)
        return torch.stack([levels, torch.arange(250.0).expand_as(levels)], 2)

    together = list(over_clips(iter(clips), model, overlap_s, batch))
    shared, calls = calls[:], []
    for clip, frames in zip(clips, together, strict=True):
        torch.testing.assert_close(frames, over_windows(clip[None], model, overlap_s)[0])
    assert set(shared[:-1]) <= {batch} and 0 < shared[-1] <= batch


def test_killed_between_parts_and_within_them_the_same_command_goes_on(
    folder, undisturbed, tmp_path
):
    out = tmp_path / "out"
    arguments = (*DETECT, folder, "--out", out)
    process = start(*arguments, script=tmp_path / "run.py")
    wait_for(lambda: list(out.glob("part-*.json")))
    process.kill()
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.json")}
    assert 0 < len(kept) < N_PARTS
    assert run(*arguments) == 1
    assert rows(out) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(out.glob(".*"))


def test_ctrl_c_ends_all_processes_and_leaves_whole_parts(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    arguments = (*DETECT, folder, "--out", out, "--jobs", 2)
    process = start(*arguments, script=tmp_path / "run.py", size=1)
    wait_for(lambda: list(out.glob("part-*.json")))
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted; the same command again does only what is missing" in said
    assert "Traceback" not in said
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not list(out.glob(".*"))
    parts = list(out.glob("part-*.parquet"))
    assert 0 < len(parts) < 11
    monkeypatch.setattr(corpus, "PART_FILES", 1)
    assert run(*DETECT, folder, "--out", out) == 1
    assert sorted(row["file"] for row in rows(out)) == sorted(row["file"] for row in undisturbed)


def kill_a_worker(out: Path) -> None:
    """The first that writes a part."""
    file = wait_for(lambda: [*out.glob(".hear_ptsed-*.parquet")])[0]
    os.kill(int(file.name.split("-")[1]), signal.SIGKILL)


def test_a_killed_worker_is_replaced_and_its_part_made_again(folder, undisturbed, tmp_path):
    out = tmp_path / "out"
    killer = threading.Thread(target=kill_a_worker, args=[out])
    killer.start()
    assert run(*DETECT, folder, "--out", out, "--jobs", 2) == 1
    killer.join()
    assert rows(out) == undisturbed


def test_a_worker_ends_with_the_command_that_was_killed(folder, tmp_path):
    process = start(
        *DETECT, folder, "--out", tmp_path / "out", "--jobs", 2, script=tmp_path / "run.py"
    )
    workers = wait_for(lambda: children(process.pid))
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in workers))
