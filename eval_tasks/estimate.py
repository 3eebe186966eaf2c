"""What a run would do, how long that takes and how much it writes; nothing is written for it."""

import time
from dataclasses import replace

import torch

from eval_tasks.plugin import device_of
from eval_tasks.run import Run

CLIPS = 8  # of the training step that is timed
STATE = 4  # weights now, the best ones, and two moments of the optimiser
HEAR_COPIES = 4  # heareval keeps float32 twice, eval_tasks.fit.features float16 once


def told(run: Run) -> str:
    """A few lines for `--dry-run`."""
    lines = [f"{run.request.command}"]
    if run.finished():
        return f"{lines[0]}\n  finished: {run.path}"
    lines.append(f"  record: {run.path}")
    if any(run.folder.rglob("state.pt")):
        lines.append(f"  goes on from the state in {run.folder}")
    lines += [f"  coverage: {run.data.coverage}"] if run.data.coverage else []
    parts = ", ".join(f"{name} {len(part)}" for name, part in run.data.parts.items())
    lines.append(f"  clips: {parts}; {len(run.data.classes)} classes")
    if run.request.protocol.endswith("finetuned"):
        lines.append(f"  training: {_training(run)}")
    else:
        lines.append(f"  embeddings: {_embeddings(run)}")
        lines.append(f"  then the training on them, on {len(run.splits)} splits (not timed)")
    return "\n".join(lines)


def _embeddings(run: Run) -> str:
    from eval_tasks.fit.features import estimate

    splits, hear = run.splits, run.request.protocol == "hear"
    names = {name for split in splits for name in (*split.train, split.valid, split.test)}
    if run.request.protocol in ("weak-linear", "mean-teacher"):
        more = ("weak", "unlabelled") if run.request.protocol == "mean-teacher" else ("weak",)
        names |= {name for name in more if name in run.data.parts}
    shifts = 1 if run.recipe is None else run.recipe.fit.shifts
    # heareval has no use for the cache of the others.
    cache = run.folder / "hear" if hear else run.request.work / "features"
    device = device_of(run.request.device)
    found = estimate(run.data, sorted(names), run.module, cache, shifts=shifts, device=device)
    size = found.bytes * (HEAR_COPIES if hear else 1)
    if not size:
        return "in the cache"
    return f"about {_time(found.seconds)} on {device}, {_size(size)}"


def _training(run: Run) -> str:
    """Steps, and the time of one on a few clips that is really done."""
    from eval_tasks.fit import finetune, loop

    data, numbers = run.data, run.recipe
    weak = [data.parts["weak"]] if run.request.protocol == "weak-finetuned" else []
    strong = [[data.parts[name] for name in split.train] for split in run.splits]
    steps = sum(finetune.Batches(one, weak, numbers, run.seed).plan.steps for one in strong)
    few = replace(
        numbers,
        optim=replace(numbers.optim, batch=min(CLIPS, numbers.optim.batch)),
        fit=replace(numbers.fit, weak_batch=min(CLIPS, numbers.fit.weak_batch)),
    )
    attention = bool(weak)
    net = finetune.network(
        run.module, len(data.classes), numbers.fit, run.seed, attention=attention
    )
    device = torch.device(device_of(run.request.device))
    batches = finetune.Batches(strong[0], weak, few, run.seed)
    valid = data.parts[run.splits[0].valid]
    problem = finetune.FineTuning(net.to(device), data.task, valid, batches, few)
    batch = next(problem.batches(0))
    for _ in range(2):  # the first one prepares
        started = time.perf_counter()
        with loop.autocast(numbers.fit.precision, device):
            loss = problem.loss(batch, 0)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    seconds *= (numbers.optim.batch + numbers.fit.weak_batch) / (
        few.optim.batch + few.fit.weak_batch
    )
    size = STATE * sum(p.numel() * p.element_size() for p in net.parameters())
    return (
        f"{steps} steps of {seconds:.2f} s on {device}, as one of {few.optim.batch} clips tells: "
        f"about {_time(steps * seconds)} and the validations; {_size(size)} until it is done"
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"
