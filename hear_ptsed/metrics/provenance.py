"""A finished record: scores, and where they were made: versions, machine, commit."""

import os
import platform
import shutil
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hear_ptsed.metrics.bootstrap import Scored
from hear_ptsed.metrics.records import Asked, Record

PACKAGES = (
    *("torch", "torchaudio", "numpy", "hear_ptsed", "heareval", "pytorch-lightning"),
    *("sed_eval", "dcase_util", "sed_scores_eval", "scipy", "soundfile"),
)


def make_record(
    asked: Asked, scored: Scored, started: datetime, seconds: float, device: str, **more: Any
) -> Record:
    """The record of what was asked, of this machine and this moment.

    Args:
        seconds: that it took.
        device: that was used.
        more: what else a record has: cost, clips, and maybe folds, folds_of, training.
    """
    return Record(
        **vars(asked),
        scores=scored.scores,
        per_class=scored.per_class,
        ci95=scored.ci95,
        # 10 digits: enough to find them again, half the size of all.
        replicates={m: [round(v, 9) for v in row] for m, row in scored.replicates.items()},
        draws=scored.draws,
        conventions=scored.conventions,
        settings=scored.settings,
        curves=scored.curves,
        seconds=round(seconds, 3),
        software=software(),
        hardware=hardware(device),
        commit=commit(),
        started=started.isoformat(timespec="seconds"),
        **{"folds": [], "folds_of": 0} | more,
    )


def software() -> dict[str, str]:
    """Versions of what computes and scores; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def hardware(device: str) -> dict[str, Any]:
    """The machine this runs on; its GPU only if `device` is one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    machine = {"cpu": (models or [platform.processor() or platform.machine()])[0]}
    machine |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        machine["memory_gib"] = round(memory / 2**30, 1)
    gpu = device.startswith("cuda")
    return machine | {"gpu": torch.cuda.get_device_name(torch.device(device)) if gpu else None}


def commit() -> str | None:
    """Of the checkout that the code runs from, "+changes" if files differ; None without one.

    Records in results/ are no code.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    texts = []
    changed = "status --porcelain --untracked-files=no -- . :(exclude)results"
    for command in ("rev-parse HEAD", changed):
        done = subprocess.run(["git", *command.split()], cwd=root, capture_output=True, text=True)
        if done.returncode:
            return None
        texts.append(done.stdout.strip())
    return texts[0] + ("+changes" if texts[1] else "")
