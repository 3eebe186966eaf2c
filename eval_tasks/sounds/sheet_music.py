"""Composed music from the music21 corpus as note lists, parsed once and kept in the cache."""

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hear_ptsed.files import cache_dir, write_json

# Piano music first, then what can be played on a piano: string quartets and chorales.
PIANO = (
    "chopin/mazurka06-2 joplin/maple_leaf_rag cpebach/h186 mozart/k545/movement1_exposition "
    "schumann_clara/polonaise_op1n1 schumann_clara/polonaise_op1n2 schumann_clara/polonaise_op1n3 "
    "schumann_clara/polonaise_op1n4 schoenberg/opus19/movement2 schoenberg/opus19/movement6"
)
QUARTETS = (
    "haydn/opus1no1/movement{} haydn/opus74no1/movement{} mozart/k155/movement{} "
    "mozart/k156/movement{} mozart/k458/movement{} mozart/k80/movement{} "
    "beethoven/opus18no1/movement{} beethoven/opus59no1/movement{} beethoven/opus59no2/movement{}"
)
ANALYSIS = ".rntxt"  # chords of a chorale, no notes
MOVEMENTS = (2, 3)  # first movements are long: a clip would hear a third of one


@dataclass(frozen=True)
class Score:
    """Times in quarter notes: `notes` holds (onset, length, MIDI pitch), `bars` the bar lines."""

    notes: list[tuple[float, float, int]]
    bars: list[float]

    def bar(self, onset: float) -> tuple[float, float]:
        """Start and end of the bar that holds a time."""
        i = bisect_right(self.bars, onset)
        start = self.bars[i - 1] if i else 0.0
        return start, self.bars[i] if i < len(self.bars) else start + 4.0


def _corpus():
    try:
        from music21 import corpus
    except ImportError:
        raise RuntimeError("the piano task needs music21: pip install music21") from None
    return corpus


def pieces() -> list[str]:
    """Names of all pieces, in the order in which folds take turns to pick them."""
    files = [Path(path) for path in _corpus().getComposer("bach")]
    chorales = {f"bach/{file.stem}" for file in files if file.suffix != ANALYSIS}
    quartets = [name.format(i) for i in MOVEMENTS for name in QUARTETS.split()]
    # by hash, so that chorales of one cantata are not dealt out in the order of their folds
    shuffled = sorted(chorales, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return [*PIANO.split(), *quartets, *shuffled]


def source_file(piece: str) -> Path:
    """The score file inside the installed music21."""
    files = _corpus().getWork(piece)  # some in two formats, or with others whose names begin so
    paths = map(Path, files if isinstance(files, list) else [files])
    return min(path for path in paths if path.stem == piece.rsplit("/", 1)[1])


def read_piece(piece: str) -> Score:
    """Notes of a piece with ties joined and grace notes left out."""
    cached = (
        cache_dir("scores", f"music21-{version('music21')}") / f"{piece.replace('/', '_')}.json"
    )
    if not cached.exists():
        write_json(cached, _parse(piece))
    content = json.loads(cached.read_text())
    return Score([tuple(note) for note in content["notes"]], content["bars"])


def _parse(piece: str) -> dict:
    parsed = _corpus().parse(source_file(piece), forceSource=True).stripTies()
    notes = set()
    for element in parsed.recurse().notes:
        if element.quarterLength > 0:  # grace notes and chord symbols have no length
            onset = float(element.getOffsetInHierarchy(parsed))
            notes |= {(onset, float(element.quarterLength), p.midi) for p in element.pitches}
    measures = parsed.parts[0].getElementsByClass("Measure")
    return {
        "notes": sorted(notes),
        "bars": sorted({float(measure.getOffsetInHierarchy(parsed)) for measure in measures}),
    }
