"""Preparing MAESTRO from the original release, whole or zipped; notes under the sustain pedal."""

import csv
import zipfile
from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pandas as pd
import pytest
import soundfile

from eval_tasks import tasks
from eval_tasks.tasks import maestro
from eval_tasks.tasks.base import open_task
from eval_tasks.tasks.hear_folder import subsample
from eval_tasks.tasks.midi import sustained_notes


def midi(path: Path, *messages: tuple) -> None:
    """Messages (seconds, kind, number, value) at 120 beats a minute, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, track, now = mido.MidiFile(ticks_per_beat=500), mido.MidiTrack(), 0
    file.tracks.append(track)
    for seconds, kind, number, value in messages:
        ticks = round(1000 * seconds)
        names = ("control", "value") if kind == "control_change" else ("note", "velocity")
        values = dict(zip(names, (number, value), strict=True))
        track.append(mido.Message(kind, time=ticks - now, **values))
        now = ticks
    file.save(path)


ON, OFF, PEDAL = "note_on", "note_off", "control_change"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([(1, ON, 60, 80), (2, OFF, 60, 0)], [(1, 2, 60)]),
        ([(1, ON, 60, 80), (2, ON, 60, 0)], [(1, 2, 60)]),  # velocity 0 is a release
        (  # held until the pedal goes up
            [(0, PEDAL, 64, 127), (1, ON, 60, 80), (2, OFF, 60, 0), (3, PEDAL, 64, 0)],
            [(1, 3, 60)],
        ),
        (  # the pedal comes while the note sounds
            [(1, ON, 60, 80), (1.5, PEDAL, 64, 64), (2, OFF, 60, 0), (3, PEDAL, 64, 63)],
            [(1, 3, 60)],
        ),
        (  # too late: the key is up
            [(1, ON, 60, 80), (2, OFF, 60, 0), (2.1, PEDAL, 64, 90), (3, PEDAL, 64, 0)],
            [(1, 2, 60)],
        ),
        (  # struck again under the pedal
            [
                *[(0, PEDAL, 64, 127), (1, ON, 60, 80), (2, OFF, 60, 0), (2.5, ON, 60, 80)],
                *[(2.7, OFF, 60, 0), (3, ON, 61, 80), (4, OFF, 61, 0), (5, PEDAL, 64, 0)],
            ],
            [(1, 2.5, 60), (2.5, 5, 60), (3, 5, 61)],
        ),
        (  # the key is down longer than the pedal
            [(0, PEDAL, 64, 127), (1, ON, 60, 80), (2, PEDAL, 64, 0), (3, OFF, 60, 0)],
            [(1, 3, 60)],
        ),
        (  # the pedal stays down: to the last event
            [
                (0, PEDAL, 64, 127),
                (1, ON, 60, 80),
                (2, OFF, 60, 0),
                (3, ON, 62, 9),
                (4, OFF, 62, 0),
            ],
            [(1, 4, 60), (3, 4, 62)],
        ),
        (  # another controller is no pedal
            [(0, PEDAL, 66, 127), (1, ON, 60, 80), (2, OFF, 60, 0), (3, PEDAL, 66, 0)],
            [(1, 2, 60)],
        ),
        (  # struck again at the instant of the release, before it in the file
            [(1, ON, 60, 80), (2, ON, 60, 80), (2, OFF, 60, 0), (3, OFF, 60, 0)],
            [(1, 2, 60), (2, 3, 60)],
        ),
        ([(1, ON, 60, 80), (1, OFF, 60, 0)], []),
    ],
)
def test_the_sustain_pedal_holds_notes(tmp_path, messages, expected):
    midi(tmp_path / "a.midi", *messages)
    notes = [(n.start, n.end, n.pitch) for n in sustained_notes(tmp_path / "a.midi")]
    assert np.allclose(notes, expected, atol=1e-9) if expected else notes == []


def test_times_follow_the_tempo_and_do_not_drift(tmp_path):
    file = mido.MidiFile(type=1, ticks_per_beat=480)
    notes, tempi = mido.MidiTrack(), mido.MidiTrack()
    for i in range(3000):
        notes.append(mido.Message(ON if i % 2 == 0 else OFF, note=60, time=96))  # 100 ms
    tempi.append(mido.MetaMessage("set_tempo", tempo=1_000_000, time=96 * 2000))
    file.tracks += [tempi, notes]
    file.save(tmp_path / "a.midi")
    held_notes = sustained_notes(tmp_path / "a.midi")
    assert [n.start for n in held_notes[:900]] == [(96 + 192 * i) * (0.5 / 480) for i in range(900)]
    assert np.allclose(
        [n.start for n in held_notes[1000:]], 200.2 + 0.4 * np.arange(500), atol=1e-9
    )


def test_a_damaged_midi_file_is_named(tmp_path):
    (tmp_path / "a.midi").write_bytes(b"MThd\x00")
    with pytest.raises(ValueError, match="a.midi is no MIDI file that can be read"):
        sustained_notes(tmp_path / "a.midi")


def test_clips_are_chosen_as_pandas_chooses_them():
    names = [f"clip {i:03d}" for i in range(255)]
    seeds = (643493686, 4072256938, 3059658223, 965751223, 1642250788)
    for i, seed in enumerate(seeds):
        expected = pd.Series(names).sample(frac=1, random_state=seed).tolist()[:37]
        assert subsample(reversed(names), f"fold{i:02d}", 37) == expected


@pytest.fixture
def maestro_original(tmp_path, monkeypatch) -> Path:
    """The table of 1276 recordings; the files of the selected ones only."""
    monkeypatch.setattr(maestro, "TASK", replace(maestro.TASK, clip_s=1.0))
    root = tmp_path / "maestro-v3.0.0"
    root.mkdir()
    with (root / maestro.INDEX).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["canonical_composer", "canonical_title", "split", "year", *maestro.COLUMNS])
        for i in range(1276):
            stem = f"{2004 + i % 10}/MIDI-{i:04d}_wav--1"
            table.writerow(["A, B", "T", "train", 2004, f"{stem}.midi", f"{stem}.wav", 1.5])
    for rows in maestro.select_recordings(root / maestro.INDEX).values():
        for row in rows:
            pitch = 20 + int(row["audio_filename"][10:14]) % 87
            late = [(1.2, ON, 107, 50), (1.5, OFF, 107, 0)]
            strokes = [(0.1, ON, pitch, 70), (0.3, ON, 108, 70), (0.5, OFF, pitch, 0)]
            midi(root / row["midi_filename"], *strokes, (1.1, OFF, 108, 0), *late)
            soundfile.write(root / row["audio_filename"], np.zeros((13230, 2)), 22050)
    return root


def test_the_folds_of_maestro_are_cut_from_all_names(maestro_original, monkeypatch):
    cuts = []
    original = maestro.hear_folder.subsample

    def noted(names, split, count):
        cuts.append(names)
        return original(names, split, count)

    monkeypatch.setattr(maestro.hear_folder, "subsample", noted)
    folds = maestro.select_recordings(maestro_original / maestro.INDEX)
    assert [len(cut) for cut in cuts] == [256, 255, 255, 255, 255]
    assert len({name for cut in cuts for name in cut}) == 1276
    assert [len(rows) for rows in folds.values()] == [37] * 5


def test_maestro_is_made_from_the_original_folder_and_zip(maestro_original, tmp_path):
    folder = tasks.prepare("maestro", tmp_path / "tasks", source=(maestro_original,))
    data = open_task(tasks.find_task("maestro"), folder)
    assert folder.name == data.version == "maestro-v3.0.0-5h" and len(data.splits) == 5
    assert {len(part) for part in data.parts.values()} == {37}
    assert list(data.classes) == sorted(data.classes, key=int)
    assert {"20", "107"}.isdisjoint(data.classes) and "108" in data.classes  # no key; too late
    assert data.metadata["use_scoring_for_early_stopping"] is False
    for part in data.parts.values():
        for events in part.events.values():
            assert any(e["start"] == 300.0 and e["end"] == 1000.0 for e in events)  # cut
    archive = tmp_path / "maestro-v3.0.0.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("maestro-v3.0.0/2004/MIDI-9999_wav--1.wav", b"not wanted")
        for path in sorted(maestro_original.rglob("*.*")):
            file.write(path, path.relative_to(tmp_path))
    again = tasks.prepare("maestro", tmp_path / "again", source=(archive,), sample_rate=22050)
    names = [sorted(p.name for p in again.glob(f"{rate}/*/*.wav")) for rate in (16000, 22050)]
    assert names[0] == names[1] and len(names[1]) == 5 * 37
    assert open_task(tasks.find_task("maestro"), again).fingerprint == data.fingerprint


def test_a_maestro_with_missing_recordings_or_another_table_is_refused(maestro_original, tmp_path):
    path = next(maestro_original.rglob("*.wav"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 clips \(.*{path.stem}.*missing"):
        tasks.prepare("maestro", tmp_path / "tasks", source=(maestro_original,))
    path.with_suffix(".midi").unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks 1 recordings of fold0. \(.*{path.stem}"):
        tasks.prepare("maestro", tmp_path / "tasks", source=(maestro_original,))
    index = maestro_original / maestro.INDEX
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"lists 1275 recordings; v3.0.0 has 1276"):
        tasks.prepare("maestro", tmp_path / "tasks", source=(maestro_original,))
    assert list((tmp_path / "tasks").iterdir()) == []
