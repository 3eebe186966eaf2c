"""Audio of a task folder at the rate that a module takes."""

import json
import logging
from pathlib import Path

import soundfile
from tqdm import tqdm

from hear_ptsed.audio import read_audio
from hear_ptsed.files import write_json
from hear_ptsed.parts import MANIFEST, make_folder
from training.data.clips import to_int16

log = logging.getLogger(__name__)


def provide_audio(folder: Path, rate: int) -> None:
    """Have the clips of a task's splits in FOLDER/RATE, as heareval reads them.

    Where there is no such folder it is made, whole or not at all, of the highest rate at hand.

    Args:
        folder: of the task.
        rate: in Hz.
    """
    if type(rate) is not int:  # heareval makes a folder name of it
        raise ValueError(f"model.sample_rate is {rate!r}; it must be an int such as 16000")
    splits = json.loads((folder / "task_metadata.json").read_text(encoding="utf-8"))["splits"]
    rates = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    lacking = {r: [s for s in splits if not (folder / str(r) / s).is_dir()] for r in rates}
    if lacking.get(rate) == []:
        return
    sources = [source for source in rates if not lacking[source]]
    if rate in rates or not sources:
        missing = lacking.get(rate, splits)[0]
        remedy = f"delete {folder / str(rate)} to have it made" if sources else "prepare it again"
        raise FileNotFoundError(
            f"{folder} has no audio in {rate}/{missing}, the rate this model takes; {remedy}"
        )
    source = max(sources)
    if source < rate:
        log.warning("%s: %d Hz are made of %d Hz, no more is there", folder.name, rate, source)
    settings = {"rate": rate, "source_rate": source}

    def fill(new: Path) -> None:
        for split in splits:
            (new / split).mkdir()
            clips = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
            for name in tqdm(clips, desc=f"{folder.name}: {split} at {rate} Hz", unit="clip"):
                audio, _ = read_audio(folder / str(source) / split / name, rate)
                pcm = to_int16(audio.numpy())
                target = new / split / Path(name).name  # a strange one writes nowhere else
                soundfile.write(target, pcm, rate, subtype="PCM_16", format="WAV")
        write_json(new / MANIFEST, {"settings": settings})

    make_folder(folder / str(rate), settings, fill, wait=True)
