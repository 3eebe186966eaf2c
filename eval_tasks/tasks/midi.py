"""Notes of a MIDI file, held by the sustain pedal."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

SUSTAIN, DOWN = 64, 64  # the controller; from this value on the pedal is down
PEDAL_DOWN, PEDAL_UP, STRIKE, RELEASE = range(4)  # their order at one instant


class Note(NamedTuple):
    """Times in seconds."""

    start: float
    end: float
    pitch: int


def sustained_notes(path: Path) -> list[Note]:
    """Notes by start; one that sounds while the pedal is down ends with the pedal, not the key.

    It ends earlier if its pitch is struck again; where the pedal stays down, with the last event.
    """
    return sorted(
        note
        for notes, pedal in _performed(path).values()
        for note in _held(notes, pedal)
        if note.end > note.start
    )


def _performed(path: Path) -> dict[int, tuple[list[Note], list[tuple[float, bool]]]]:
    """By channel: notes from key press to release, and the pedal's moves as (time, is down)."""
    channels = defaultdict(lambda: ([], []))
    pressed = defaultdict(list)
    for now, message in _timed(path):
        if message.type == "control_change" and message.control == SUSTAIN:
            channels[message.channel][1].append((now, message.value >= DOWN))
        elif message.type == "note_on" and message.velocity > 0:
            pressed[message.channel, message.note].append(now)
        elif message.type in ("note_on", "note_off"):
            starts = pressed.pop((message.channel, message.note), [])
            before = [start for start in starts if start < now]
            channels[message.channel][0].extend(Note(s, now, message.note) for s in before)
            if before:  # a key struck at this very instant was struck again: it goes on
                again = [start for start in starts if start == now]
                pressed[message.channel, message.note].extend(again)
    return channels


def _timed(path: Path) -> list[tuple[float, Any]]:
    """Messages of all tracks with their times: multiples of a tick, not sums that would drift."""
    try:
        import mido
    except ImportError:
        raise RuntimeError("MIDI files need mido: pip install mido") from None
    messages, tick = [], 0
    since_tick, since_s, tempo = 0, 0.0, 500_000  # us per beat, until the file says otherwise
    try:
        file = mido.MidiFile(path)
        for message in mido.merge_tracks(file.tracks):
            tick += message.time
            now = since_s + mido.tick2second(tick - since_tick, file.ticks_per_beat, tempo)
            if message.type == "set_tempo":
                since_tick, since_s, tempo = tick, now, message.tempo
            messages.append((now, message))
    except (EOFError, OSError, ValueError, IndexError) as error:
        if not Path(path).is_file():
            raise
        raise ValueError(f"{path} is no MIDI file that can be read ({error})") from error
    return messages


def _held(notes: list[Note], pedal: list[tuple[float, bool]]) -> list[Note]:
    """The notes of one channel with their ends moved."""
    moments = [(time, PEDAL_DOWN if down else PEDAL_UP, None) for time, down in pedal]
    for note in notes:
        moments += [(note.start, STRIKE, note), (note.end, RELEASE, note)]
    moments.sort(key=lambda moment: moment[:2])
    down, held = False, []
    sounding: list[Note] = []  # the key is down or, where it is not, the pedal

    def end(ending: list[Note], time: float) -> None:
        for note in ending:
            sounding.remove(note)
            held.append(note._replace(end=time))

    for time, kind, note in moments:
        if kind == PEDAL_DOWN:
            down = True
        elif kind == PEDAL_UP:
            down = False
            end([held_on for held_on in sounding if held_on.end < time], time)
        elif kind == STRIKE:
            end([held_on for held_on in sounding if down and held_on.pitch == note.pitch], time)
            sounding.append(note)
        elif not down and note in sounding:
            end([note], time)
    end(list(sounding), moments[-1][0] if moments else 0.0)
    return held
