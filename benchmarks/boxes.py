"""Bounding boxes (SEBB): their rate, and PSDS1 without filter, with medians and with boxes.

`python benchmarks/boxes.py --trained WORK/trained/quick --tasks-dir WORK/tasks --soundscapes
FOLDER`, with networks and tasks as `benchmarks/results.py` leaves them; seed s of an evaluation
starts from seed s of the training. On `home` settings are chosen on validation; the soundscapes
have none, so five folds of their evaluation clips each take the settings that are best on the other
four. An interval is over test clips, of the difference in the same clips, mean over the seeds.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit

from eval_tasks.plan import plan_run
from eval_tasks.request import Request
from eval_tasks.run import predict_folds
from hear_ptsed import load
from hear_ptsed.boxes import GRID, boxes_by_class, boxes_of
from hear_ptsed.events import MEDIAN, median_filter
from hear_ptsed.metrics.areas import area_scores
from hear_ptsed.metrics.bootstrap import Bootstrap, interval
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.tuning import best_of_classes, psds_by_boxes
from training.data.sources import Data, Source, open_sources
from training.evaluate import Scoring, fill_scores
from training.labels import FrameLabels
from training.scores import Scores, as_predictions

CLASSES, CLIPS = 447, 17_000  # of AudioSet Strong
MEDIANS = [max(1, 5 * step) for step in range(11)]  # frames: 0 to 2 s
FOLDS = 5
METRICS = ["psds1", "psds1_macro"]  # of 54 classes the former is 0: its penalty outweighs it
Pair = tuple[Predictions, Predictions]  # to choose on, and to score


def smoothed(predictions: Predictions, sizes: list[int]) -> Predictions:
    """By a median of each class."""
    scores = {file: median_filter(x, sizes) for file, x in predictions.scores.items()}
    return replace(predictions, scores=scores)


def by_median(size: int) -> Callable[[Predictions, Predictions], Predictions]:
    return lambda _valid, test: smoothed(test, [size] * len(test.classes))


def by_tuned_median(valid: Predictions, test: Predictions) -> Predictions:
    def psds(size: int) -> dict[str, float]:
        per_class = area_scores(replace(valid, median_frames=size), ["psds1"]).per_class
        return {name: row["psds1"] for name, row in per_class.items()}

    return smoothed(test, best_of_classes(MEDIANS, test.classes, psds))


def by_boxes(valid: Predictions, test: Predictions) -> Predictions:
    settings = best_of_classes(GRID, test.classes, psds_by_boxes(valid).get)
    scores = {
        file: boxes_by_class(x, settings).paint(*x.T.shape).T for file, x in test.scores.items()
    }
    return replace(test, scores=scores)


def measured(pairs: list[Pair], decode: Callable) -> np.ndarray:
    """(2, 1 + R) METRICS of all test clips and of resamples."""
    parts = [decode(*pair) for pair in pairs]
    whole = replace(
        parts[0],
        scores={file: x for part in parts for file, x in part.scores.items()},
        reference={file: x for part in parts for file, x in part.reference.items()},
        durations_s={file: x for part in parts for file, x in part.durations_s.items()},
    )
    scored = area_scores(whole, METRICS, Bootstrap())
    return np.array([[scored.scores[m], *scored.replicates[m]] for m in METRICS])


def home(module: str, seed: int, args: argparse.Namespace) -> list[Pair]:
    request = Request(
        task="home",
        module=module,
        checkpoint=args.trained / f"seed{seed}/strong/model.pt" if module == "checkpoint" else None,
        protocol="weak-linear",
        seed=seed,
        decoder="sebb",
        tasks_dir=args.tasks_dir,
        work=args.work,
    )
    run = plan_run(request)
    fold = predict_folds(run, progress=False)[0]

    def of(name: str, scores: dict[str, np.ndarray]) -> Predictions:
        part = run.data.parts[name]
        return Predictions(part.classes, part.events, part.durations_s, scores)

    return [(of(run.splits[0].valid, fold.valid), of(fold.part, fold.probabilities))]


def soundscapes(seed: int, args: argparse.Namespace) -> list[Pair]:
    folder = args.soundscapes
    net = load(None, checkpoint=args.trained / f"seed{seed}/strong/model.pt")
    classes = list(net.classes_of("strong", "the network"))
    data = Data(eval=(Source(audio=str(folder / "eval_mp3.hdf"), events=str(folder / "eval.tsv")),))
    opened = open_sources(data.eval, data, FrameLabels(), unknown="keep")
    options = Scoring(progress=False)
    options = replace(options, evaluation=replace(options.evaluation, median=1))
    scores = Scores(
        opened.clip_set(classes), opened.merged_events(), options.labels, options.evaluation, False
    )
    fill_scores(net, scores, options)
    names = [classes[c] for c in scores.scored]
    whole = as_predictions(scores.strong, scores.clips.keys, names, scores.events, scores.seconds)
    tables = {file: expit(whole.scores[file].astype(np.float32)) for file in whole.scores}
    return [*folds(replace(whole, scores=tables))]


def folds(whole: Predictions) -> Iterator[Pair]:
    """Each fold of the clips with events, behind the others."""
    files = sorted(whole.event_clips.files)
    np.random.RandomState(0).shuffle(files)
    borders = np.linspace(0, len(files), FOLDS + 1).round().astype(int)
    for first, stop in zip(borders, borders[1:], strict=False):
        test = files[first:stop]
        yield tuple(
            replace(
                whole,
                scores={file: whole.scores[file] for file in some},
                reference={file: whole.reference[file] for file in some},
                durations_s={file: whole.durations_s[file] for file in some},
            )
            for some in ([file for file in files if file not in test], test)
        )


def compare(title: str, of_seed: Callable[[int], list[Pair]], usual: int, seeds: list[int]) -> None:
    decoders = {
        "none": by_median(1),
        f"median {usual}": by_median(usual),
        "median tuned by class": by_tuned_median,
        "SEBB tuned by class": by_boxes,
    }
    values = {name: [] for name in decoders}
    for seed in seeds:
        pairs = of_seed(seed)
        for name, decode in decoders.items():
            values[name].append(measured(pairs, decode))
    *others, boxes = values
    for m, metric in enumerate(METRICS):
        print(f"{title}, seeds {seeds}: {metric}", flush=True)
        means = {name: np.array(of_seeds)[:, m].mean(0) for name, of_seeds in values.items()}
        for name, of_seeds in values.items():
            each = ", ".join(f"{value[m][0]:.3f}" for value in of_seeds)
            print(f"  {name:22} {means[name][0]:.3f} ({each})")
        for name in others:
            gain = means[boxes] - means[name]
            low, high = interval(gain[1:])
            print(f"  {boxes} - {name}: {gain[0]:+.3f} ({low:+.3f} to {high:+.3f})", flush=True)


def rate(rows: int) -> None:
    """All settings on rows of scores, of a slice of AudioSet Strong's size."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 250)).cumsum(1) / 3 + rng.normal(-6, 2, (rows, 1))
    few = np.where(rng.random((rows, 1)) < 0.1, expit(logits), 1e-5)
    for name, scores in (
        ("a tenth of the rows reach 1e-3", few),
        ("slow noise in all rows", expit(logits)),
        ("white noise in all rows", rng.random((rows, 250))),
    ):
        began = time.process_time()
        boxes = boxes_of(scores.astype(np.float32), GRID)
        seconds = time.process_time() - began
        mean = np.mean([len(of.row) for of in boxes.values()]) / rows
        print(
            f"{name}: {rows} rows x {len(GRID)} settings in {seconds:.1f} s CPU, "
            f"{rows * len(GRID) / seconds / 1e6:.2f} million a second, {mean:.1f} boxes a row; "
            f"{CLASSES} x {CLIPS} rows would take {CLASSES * CLIPS / rows * seconds / 60:.1f} min",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--trained", type=Path, help="folder of seed*/strong/model.pt")
    parser.add_argument("--tasks-dir", type=Path, default=Path("work/tasks"))
    parser.add_argument("--soundscapes", type=Path, help="folder of eval_mp3.hdf and eval.tsv")
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rate(args.rows)
    if args.trained and args.soundscapes:
        compare("soundscapes, frame_mn02", lambda s: soundscapes(s, args), MEDIAN, args.seeds)
    if args.trained:
        for module in ("checkpoint", "eval_tasks.logmel"):
            compare(f"home, {module}", lambda s, m=module: home(m, s, args), 7, args.seeds)


if __name__ == "__main__":
    main()
