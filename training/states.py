"""The complete state of a run, last.ckpt and best.ckpt: read with checks, and never run."""

import shlex
import zipfile
from pathlib import Path
from typing import Any

import torch

from hear_ptsed.errors import one_line, printable
from training.recipe import Recipe, from_dict

KINDS = {  # what a state holds
    "recipe": dict,
    "classes": list,
    "unreadable": dict,
    "state_dict": dict,
    "global_step": int,
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": dict,
    "loops": dict,
}


def read_state(path: Path) -> tuple[dict[str, Any], Recipe]:
    """All that a run's checkpoint holds, and its recipe; what is damaged or strange is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:  # torch looks at no checksum: 0.3 s for 1 GB
            if part := archive.testzip():
                raise ValueError(f"the checksum of {part} is of other content")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and zipfile have many ways to say that a file is damaged
        why = printable(one_line(error), 150)
        raise ValueError(
            f"{path} is damaged or no checkpoint of `python -m training fit` ({why})"
        ) from None
    values = content if isinstance(content, dict) else {}
    if strange := [key for key, kind in KINDS.items() if not isinstance(values.get(key), kind)]:
        raise ValueError(
            f"{path} is no checkpoint of `python -m training fit`: {', '.join(strange)} missing or "
            "of a wrong type"
        )
    if not all(isinstance(name, str) for name in values["classes"]):
        raise ValueError(f"{path} is no checkpoint of `python -m training fit`: unnamed classes")
    return values, from_dict(values["recipe"], f"the recipe in {path}")


def state_to_resume(last: Path, best: Path) -> tuple[dict[str, Any], Recipe]:
    """The state in `last`; if that is damaged, the error says how to go on from `best`."""
    try:
        return read_state(last)
    except ValueError as error:
        try:
            step = read_state(best)[0]["global_step"]
        except (OSError, ValueError):
            way = f"remove it, and {best.name} if there is one, to begin again"
        else:
            command = shlex.join(["cp", str(best), str(last)])
            way = f"to go on from the best one, of step {step}, first: {command}"
        raise ValueError(f"{error}; {way}") from None
