"""A HEAR task folder of two tones in noise, for the tests of frozen evaluation."""

from pathlib import Path

from tones import write_tones

from eval_tasks.tasks.base import Task, TaskData, open_task
from hear_ptsed.metrics.decoding import Decoding

PITCHES_HZ = {"high": 2000.0, "low": 500.0}
SPLITS = {"train": 4, "valid": 2, "test": 2}
HEAD = {"hidden_layers": 1, "hidden_dim": 64, "lr": 0.01}  # one for heareval, for very few clips
HEAD |= {"max_epochs": 20, "patience": 5, "check_val_every_n_epoch": 5}
TASK = Task(
    name="tones",
    title="Tones",
    folder="tones-v1-tiny",
    about="",
    metrics=("event_onset_200ms_fms", "segment_1s_er"),
    decoding=Decoding(0, 125),
    labels=("strong", "weak"),
)


def tones(
    root: Path,
    splits: dict[str, int] = SPLITS,
    seconds: float = 24.0,
    rates: tuple[int, ...] = (16_000,),
    weak: int = 0,
) -> TaskData:
    """Clips with a tone every 2 s."""
    counts = splits | ({"weak": weak} if weak else {})
    folder = write_tones(
        root / TASK.folder,
        {part: [seconds] * count for part, count in counts.items()},
        PITCHES_HZ,
        rates=rates,
        metrics=TASK.metrics,
        use_scoring_for_early_stopping="train" in splits,
        evaluation_params={
            "task_specific_param_grid": {key: [value] for key, value in HEAD.items()},
            "event_postprocessing_grid": {"median_filter_ms": [0], "min_duration": [125]},
        },
    )
    return open_task(TASK, folder)
