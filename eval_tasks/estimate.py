"""What a run would do and how much it writes, for `--dry-run`: no model is built for it."""

from eval_tasks.fit.crops import plan_crops
from eval_tasks.fit.features import missing_rows
from eval_tasks.plan import Run
from training.data.sampling import steps_in

STATES = 4  # of float32: weights now, the best ones, and two moments of the optimiser
HEAR_COPIES = 4  # heareval keeps float32 twice, eval_tasks.fit.features float16 once


def estimate(run: Run) -> str:
    """A few lines."""
    lines = [run.request.command]
    if run.finished():
        return f"{lines[0]}\n  finished: {run.path}"
    lines.append(f"  record: {run.path}")
    if any(run.folder.rglob("state.pt")):
        lines.append(f"  goes on from the state in {run.folder}")
    lines += [f"  coverage: {run.data.coverage}"] if run.data.coverage else []
    parts = ", ".join(f"{name} {len(part)}" for name, part in run.data.parts.items())
    lines.append(f"  clips: {parts}; {len(run.data.classes)} classes")
    protocol = run.request.protocol
    if protocol.endswith("finetuned"):
        row = run.plugin.row
        size = "size not known" if row is None else _size(STATES * 4 * row.parameters)
        lines.append(f"  training: {count_steps(run)} steps; {size} until it is done")
    else:
        lines.append(f"  embeddings: {_embeddings(run)}")
        training = "heareval's own" if protocol == "hear" else f"{count_steps(run)} steps"
        lines.append(f"  training: {training}")
    return "\n".join(lines)


def count_steps(run: Run) -> int:
    """Of the optimiser, on all splits together, if none ends early."""
    recipe, parts = run.recipe, run.data.parts
    steps = 0
    for split in run.splits:
        strong = [parts[name] for name in split.train]
        if run.request.protocol == "mean-teacher":
            from eval_tasks.fit.mean_teacher import count_epoch_steps, weak_split

            clips = {"strong": sum(map(len, strong)), "unlabelled": len(parts["unlabelled"])}
            clips["weak"] = len(weak_split(parts["weak"].files)[0])
            steps += steps_in(recipe.optim.epochs, count_epoch_steps(recipe, clips))
        elif run.request.protocol.startswith("weak-"):
            steps += plan_crops([parts["weak"]], recipe, recipe.fit.weak_batch).steps
        else:
            steps += plan_crops(strong, recipe, recipe.optim.batch).steps
    return steps


def _embeddings(run: Run) -> str:
    """How many are computed, and how much room they take."""
    hear = run.recipe is None
    # Heareval has no use for the cache of the others.
    cache = run.folder if hear else run.cache
    shifts = 1 if run.recipe is None else run.recipe.fit.shifts
    rows = missing_rows(run.data, run.embedded_parts, run.plugin, cache, shifts=shifts)
    if not rows:
        return "in the cache"
    if run.plugin.row is None:
        return f"{rows} frames, size not known before the first embedding"
    copies = HEAR_COPIES if hear else 1
    return f"{rows} frames, {_size(copies * rows * run.plugin.row.dim * 2)}"


def _size(n: int) -> str:
    return f"{n / 1e6:.0f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"
