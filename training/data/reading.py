"""Clips one after the other, for jobs that go through all of them once."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset, SequentialSampler

from training.data.batch import loader
from training.data.clips import Clips, Place, Unreadable

Prepare = Callable[[np.ndarray, int], Any]


def read_ahead(
    clips: Sequence[Clips], places: Sequence[Place], prepare: Prepare, workers: int
) -> Iterator[Any]:
    """What `prepare` makes of each clip in turn, or the Unreadable that says why there is none.

    Args:
        prepare: of samples, int16 (S,), and their rate in Hz; in a worker, with one thread.
        workers: processes that read ahead, 1 or more.
    """
    clips = _Prepared(clips, places, prepare)
    workers = min(workers, len(clips), os.cpu_count() or 1)
    try:
        for item in loader(clips, SequentialSampler(clips), workers, pin=False):
            if isinstance(item, Exception) and not isinstance(item, Unreadable):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            "a process that reads ahead was killed, perhaps for lack of memory; use fewer workers"
        ) from error


@dataclass(frozen=True)
class _Prepared(Dataset):
    clips: Sequence[Clips]
    places: Sequence[Place]
    prepare: Prepare

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Any:
        place: Place = self.places[i]
        try:
            return self.prepare(*self.clips[place.source].read(place.index))
        except Exception as error:  # as a value: the loader would add its traceback to the message
            return error
