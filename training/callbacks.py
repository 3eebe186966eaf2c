"""What accompanies a run: its checkpoints, and Ctrl-C."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from hear_ptsed import interrupt
from hear_ptsed.files import atomic, null_for_nan, temporary_beside, write_json
from training.data.batch import Batch
from training.data.coverage import Coverage

LAST, BEST = "last.ckpt", "best.ckpt"


class Keep(Callback):
    """Writes last.ckpt and best.ckpt whole or not at all, and the results beside them.

    Args:
        every_steps: optimiser steps between checkpoints.
        facts: what a checkpoint holds beside the state, to make a model of it again.
        coverage: the reports of all annotations, which the module fills.
    """

    def __init__(
        self, out: Path, every_steps: int, facts: dict[str, Any], coverage: Sequence[Coverage]
    ):
        self.out, self.every_steps, self.facts, self.coverage = out, every_steps, facts, coverage
        self.best = -1.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_save_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        checkpoint |= self.facts

    def on_train_batch_end(self, trainer, module, _output: Any, batch: Batch, _index: int) -> None:
        done = batch["step"] + 1
        due = done % (self.every_steps * module.plan.accumulate) == 0
        # An evaluation at this step saves after it.
        if due and (module.scores is None or done % trainer.val_check_batch):
            module.refuse_bad()
            self.save(trainer, module)

    def on_validation_end(self, trainer, module) -> None:
        if trainer.state.fn == "fit":
            self.save_scored(trainer, module)

    def save_scored(self, trainer, module) -> None:
        """Save after an evaluation, and keep it as the best one if it is."""
        value = module.result[module.scores.primary]
        is_best = value > self.best
        self.best = max(self.best, value)
        self.save(trainer, module, ["last", "best"] if is_best else ["last"])

    def save(self, trainer, module, results: Sequence[str] = ()) -> None:
        """Write last.ckpt, before it what belongs to an evaluation and to the best one."""
        module.report_unreadable()
        temporary = temporary_beside(self.out / LAST)
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                self.write_coverage()
                for name in results:
                    write_json(self.out / f"{name}.json", null_for_nan(module.result))
                if "best" in results:
                    with atomic(self.out / BEST) as best:
                        _link(temporary, best)
                # Killed any earlier, the run comes here again when it is resumed.
                temporary.replace(self.out / LAST)
        except OSError as error:
            raise OSError(
                f"cannot write {self.out / LAST}: {error.strerror or error}; the checkpoint from "
                "before is still there: make room and resume"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write_coverage(self) -> None:
        """The reports, as coverage-0.json and so on."""
        for i, report in enumerate(self.coverage):
            report.write(self.out / f"coverage-{i}.json")


class Interruptible(Callback):
    """Lets Ctrl-C end a run between two batches."""

    def on_train_batch_end(self, *_: Any) -> None:
        interrupt.safe_point()

    def on_validation_batch_end(self, *_: Any) -> None:
        interrupt.safe_point()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
