"""`prepare hear`: archives as HEAR released them become task folders, or a line says why not."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hear_archives import ESC, FSD, OPERA, pack, write_release

from eval_tasks.__main__ import main
from eval_tasks.tasks import base


def prepare(sources: list, tasks_dir: Path, *more: str) -> int:
    words = ["--source", *map(str, sources), "--tasks-dir", str(tasks_dir)]
    return main(["prepare", "hear", *words, *more])


def test_archives_of_each_kind_become_folders_at_16_khz(tmp_path, capsys):
    for release in (ESC, OPERA, FSD):
        pack(write_release(tmp_path / "made", release), tmp_path / "archives", release.prefix)
    assert prepare([tmp_path / "archives"], tmp_path / "tasks") == 0
    said = capsys.readouterr().out.splitlines()
    for release in (ESC, OPERA, FSD):
        folder, source = tmp_path / "tasks" / release.name, tmp_path / "made" / release.name
        assert str(folder) in said
        for file in ("task_metadata.json", "labelvocabulary.csv", *release.jsons):
            assert (folder / file).read_bytes() == (source / file).read_bytes()
        assert not (folder / "48000").exists()
        for clip in source.glob("48000/*/*.wav"):
            info = soundfile.info(folder / "16000" / clip.parent.name / clip.name)
            assert (info.samplerate, info.channels) == (16000, 1)
            assert abs(info.frames - soundfile.info(clip).frames / 3) < 1
    assert said[said.index(str(tmp_path / "tasks" / ESC.name)) + 1] == "9 of 2000 clips"
    assert main(["list", "--tasks-dir", str(tmp_path / "tasks")]) == 0
    assert str(tmp_path / "tasks" / FSD.name) in capsys.readouterr().out
    assert base.read_coverage(tmp_path / "tasks" / FSD.name) == "9 of 51185 clips"


def test_other_rates_are_kept_as_they_came_and_a_finished_folder_stays(tmp_path):
    source = write_release(tmp_path, ESC)
    assert prepare([source], tmp_path / "tasks", "--sample-rate", "48000") == 0
    folder = tmp_path / "tasks" / ESC.name
    for clip in source.glob("48000/*/*.wav"):
        kept = folder / "48000" / clip.parent.name / clip.name
        assert kept.read_bytes() == clip.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert prepare([source], tmp_path / "tasks", "--sample-rate", "48000") == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert prepare([source], tmp_path / "tasks") == 1  # made with another rate
    assert prepare([source], tmp_path / "other", "--sample-rate", "22050") == 1
    assert not (tmp_path / "other" / ESC.name).exists()


def test_an_archive_of_any_name_is_looked_into_and_16_khz_are_linked(tmp_path):
    source = write_release(tmp_path, ESC, rate=16000)
    archive = pack(source, tmp_path, "tasks/").rename(tmp_path / "mine.tgz")
    assert prepare([archive], tmp_path / "tasks") == 0
    made = tmp_path / "tasks" / ESC.name
    for clip in source.glob("16000/*/*.wav"):
        assert (made / "16000" / clip.parent.name / clip.name).read_bytes() == clip.read_bytes()


def test_a_torn_clip_at_16_khz_is_named_where_lengths_differ(tmp_path, capsys):
    source = write_release(tmp_path, FSD, rate=16000)
    clip = source / "16000" / "test" / "test_1.wav"
    clip.write_bytes(clip.read_bytes()[:4000])
    assert prepare([source], tmp_path / "tasks") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{clip}: cut off" in said and not [*(tmp_path / "tasks").glob("*")]


def test_a_task_of_events_is_made_as_its_own_command_makes_it(tmp_path, capsys):
    folder = tmp_path / "dcase2016_task2-hear2021-full"
    write_release(tmp_path, ESC).rename(folder)
    content = json.loads((folder / "task_metadata.json").read_text())
    content |= {"task_name": "dcase2016_task2", "version": "hear2021", "mode": "full"}
    (folder / "task_metadata.json").write_text(json.dumps(content))
    said = []
    for task in ("hear", "dcase2016_task2"):
        words = ["--source", str(folder), "--tasks-dir", str(tmp_path / "tasks")]
        assert main(["prepare", task, *words]) == 1
        said.append(capsys.readouterr().err.strip().splitlines()[-1])
    assert said[0] == said[1] and "is a task of whole clips" in said[0]


def change_json(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def drop_a_clip(folder: Path) -> None:
    next(folder.glob("48000/fold01/*.wav")).unlink()


def shorten_a_clip(folder: Path) -> None:
    path = next(folder.glob("48000/fold01/*.wav"))
    path.write_bytes(path.read_bytes()[:30])


FAULTS = {
    "a clip that is not there": (drop_a_clip, "fold01 from 48 kHz: 1 clips"),
    "a torn clip": (shorten_a_clip, "1 clips (*.wav: *) not usable"),
    "an unknown label": (
        lambda f: change_json(f, "fold02.json", lambda c: c.update({"fold02_0.wav": ["wolf"]})),
        "fold02_0.wav has the label 'wolf', which labelvocabulary.csv does not list",
    ),
    "two labels of a multiclass task": (
        lambda f: change_json(f, "fold02.json", lambda c: c["fold02_0.wav"].append("high")),
        "fold02_0.wav has ['low', 'high']; expected one label in a list",
    ),
    "a name that leads out": (
        lambda f: change_json(f, "fold00.json", lambda c: c.update({"../../x.wav": ["low"]})),
        "1 names ('../../x.wav') cannot be those of clips",
    ),
    "metadata that is not UTF-8": (
        lambda f: (f / "task_metadata.json").write_bytes(b'{"task_name": "\xff"}'),
        "task_metadata.json is not valid JSON",
    ),
    "a vocabulary that is not UTF-8": (
        lambda f: (f / "labelvocabulary.csv").write_bytes(b"idx,label\n0,\xff\n"),
        "labelvocabulary.csv",
    ),
    "another task": (
        lambda f: change_json(f, "task_metadata.json", lambda c: c.update(version="v9")),
        "is esc50-v9-full",
    ),
    "metadata that is a list": (
        lambda f: (f / "task_metadata.json").write_text("[]"),
        "task_metadata.json is a list of 0; it must have the fields task_name",
    ),
    "no splits": (
        lambda f: change_json(f, "task_metadata.json", lambda c: c.pop("splits")),
        "task_metadata.json lacks splits",
    ),
    "a split that leads out": (
        lambda f: change_json(f, "task_metadata.json", lambda c: c.update(splits=["../x"])),
        "task_metadata.json: splits[0]",
    ),
    "clips of no length": (
        lambda f: change_json(f, "task_metadata.json", lambda c: c.update(sample_duration=0)),
        "task_metadata.json: sample_duration",
    ),
    "another kind": (
        lambda f: change_json(f, "task_metadata.json", lambda c: c.update(prediction_type="x")),
        "prediction_type 'x'; expected scene or event, multiclass or multilabel",
    ),
    "an empty split": (
        lambda f: (f / "fold00.json").write_text("{}"),
        "fold00.json lists no clip",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_left(fault, tmp_path, capsys):
    spoil, words = FAULTS[fault]
    source = write_release(tmp_path / "made", ESC)
    spoil(source)
    archive = pack(source, tmp_path, "tasks/")
    assert prepare([archive], tmp_path / "tasks") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval_tasks")]
    assert len(said) == 1 and "hear2021-esc50" in said[0]
    for part in words.split("*"):
        assert part in said[0], said[0]
    assert "-unpacked" not in said[0] and [*(tmp_path / "tasks").glob("*")] == []


def torn(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def leading_out(archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo(f"../../{ESC.name}/fold00.json")
        file.addfile(member)


@pytest.mark.parametrize("spoil", [torn, leading_out])
@pytest.mark.parametrize("name", [f"hear2021-{ESC.name}-48000.tar.gz", "mine.tar.gz"])
def test_a_damaged_archive_is_named_and_nothing_is_left(spoil, name, tmp_path, capsys):
    archive = pack(write_release(tmp_path / "made", ESC), tmp_path, "tasks/")
    archive = archive.rename(tmp_path / name)
    spoil(archive)
    assert prepare([archive], tmp_path / "tasks") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(archive) in last
    assert not (tmp_path / "tasks").exists() or [*(tmp_path / "tasks").glob("*")] == []
    of_user = tmp_path / "made" / ESC.name / "fold00.json"
    assert [*tmp_path.rglob("fold00.json")] == [of_user]


def test_a_folder_without_releases_and_a_missing_one_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert prepare([tmp_path / "empty"], tmp_path / "tasks") == 1
    assert "holds no task_metadata.json and no archive" in capsys.readouterr().err
    assert prepare([tmp_path / "none"], tmp_path / "tasks") == 1
    assert "no folder or archive" in capsys.readouterr().err


LONG = """
import resource, sys
from pathlib import Path
import soxr
from eval_tasks.tasks.downloads import to_mono
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to_mono(Path(sys.argv[1]), Path(sys.argv[2]), 600.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_clip_of_600_s_is_resampled_in_the_memory_of_its_16_khz(tmp_path):
    rate, seconds = 48000, 600
    with soundfile.SoundFile(tmp_path / "in.wav", "w", rate, 1, "PCM_16") as file:
        for _ in range(seconds // 10):
            file.write(np.full(10 * rate, 0.25, np.float32))
    command = [sys.executable, "-c", LONG, str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert soundfile.info(tmp_path / "out.wav").frames == seconds * 16000
    # At 16 kHz it is 38 MB of float32, of which a few copies are held; at 48 kHz it is 115 MB.
    assert int(said) < 3 * 38_400
