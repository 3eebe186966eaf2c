"""Published behaviours of downstream trainings: --set as_published, and each of its numbers."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from finetune_parts import TASK, Small, numbers, tones_folder
from frozen_parts import tones
from torch import Tensor, nn

from eval_tasks.fit import frozen, loop
from eval_tasks.fit.features import features
from eval_tasks.fit.finetune import AudioBatches, FineTuning, new_network
from eval_tasks.fit.recipe import recipe
from eval_tasks.plugin import Plugin
from training.optim import schedule
from training.recipe import Optim

pytestmark = pytest.mark.usefixtures("one_thread")


class Slope:
    """Something to train whose gradient is always 1: SGD moves it by the learning rate."""

    epoch_steps = 3.0

    def __init__(self, steps: int, lr: float, killed_at: int | None = None):
        self.steps, self.lr, self.killed_at = steps, lr, killed_at
        self.model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.model.weight)
        self.path, self.dtypes = [0.0], set()

    def groups(self) -> list[dict]:
        return [{"params": list(self.model.parameters()), "lr": self.lr}]

    def batches(self, first: int) -> Iterator[int]:
        return iter(range(first, self.steps))

    def loss(self, batch: int, step: int) -> Tensor:
        if step == self.killed_at:
            raise KeyboardInterrupt
        self.dtypes.add((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        return self.model.weight.sum()

    def after_step(self, step: int) -> None:
        self.path.append(-self.model.weight.item())

    def validate(self) -> dict[str, float]:
        return {"score": -self.model.weight.item()}


SGD = ("optim.name=sgd", "optim.momentum=0", "optim.weight_decay=0", "fit.check_every_epochs=100")


@pytest.mark.parametrize(
    ("protocol", "steps", "peak"), [("finetuned", 900, 2.38e-5), ("linear", 1500, 0.075)]
)
def test_a_published_schedule_climbs_for_four_thousand_steps_downstream(
    tmp_path, protocol, steps, peak
):
    numbers = recipe(TASK, protocol, [*SGD, "optim.schedule=published"])
    problem = Slope(steps, numbers.optim.lr)
    loop.train_problem(problem, numbers, tmp_path, seed=0, progress=False)
    rates = np.diff(problem.path)
    np.testing.assert_allclose(rates, numbers.optim.lr * np.arange(steps) / 4000, rtol=1e-6)
    assert max(rates) == pytest.approx(peak, rel=2e-3)


def test_a_published_schedule_climbs_for_twenty_thousand_steps_on_audioset():
    published = Optim(schedule="published")
    assert schedule(11_730, 11_730, published) == pytest.approx(11_730 / 20_000)
    assert schedule(900, 900, published, published_warmup=4000) == pytest.approx(0.225)


def test_the_published_variant_changes_these_numbers_and_no_others():
    expected = {
        "linear": {
            "optim": {"schedule": "published", "part_batches": True},
            "fit": {"head_prior": None},
        },
        "finetuned": {
            "optim": {"schedule": "published", "part_batches": True, "vector_decay": 0.001},
            "augment": {
                "wavmix_mean": "mixed",
                "filter_mode": "reference",
                "time_mask_end": False,
            },
            "fit": {"head_prior": None, "decibel_floor": "batch", "precision": "16-mixed"},
        },
    }
    for protocol, changes in expected.items():
        new, old = (recipe(TASK, protocol, given).as_dict() for given in ([], ["as_published"]))
        different = {
            section: {
                key: value for key, value in old[section].items() if value != new[section][key]
            }
            for section in old
        }
        assert {s: values for s, values in different.items() if values} == changes
    steered = recipe(TASK, "linear", ["as_published", "optim.schedule=cosine"])
    assert (steered.optim.schedule, steered.optim.part_batches) == ("cosine", True)
    with pytest.raises(ValueError, match="as_published is of linear, finetuned; .* no weak-linear"):
        recipe(TASK, "weak-linear", ["as_published"])


# Steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """5 + 1 windows of 10 s to train on."""
    clips = {"train": [50.0, 10.0], "valid": [5.0], "test": [5.0]}
    return tones_folder(tmp_path_factory.mktemp("published") / "tones", clips)


def test_an_epoch_of_fine_tuning_ends_with_a_part_batch(data):
    parts = [data.parts["train"]]
    for published, steps, sizes in ((False, 6, [4] * 6), (True, 8, [4, 2] * 4)):
        chosen = numbers(f"optim.part_batches={published}", "augment.wavmix_p=0")
        batches = AudioBatches(parts, [], chosen, 0)
        problem = FineTuning(
            new_network(Small(), 3, chosen.fit, 0), TASK, data.parts["valid"], batches, chosen
        )
        assert problem.steps == steps
        assert problem.epoch_steps == (2 if published else 1.5)
        lengths = [len(batches[step]["strong"]["audio"]) for step in range(steps)]
        assert lengths == sizes
        assert problem.loss(next(problem.batches(steps - 1)), steps - 1).isfinite()


@pytest.fixture(scope="module")
def frozen_parts(tmp_path_factory):
    """Data and features of a task of tones: 4 x 24 s to train on."""
    data = tones(tmp_path_factory.mktemp("tasks"))
    cache, logmel = tmp_path_factory.mktemp("cache"), Plugin("eval_tasks.logmel")
    embedded = {
        name: features(data, name, logmel, cache, shifts=1, progress=False)
        for name in ("train", "valid")
    }
    return data, embedded


def frozen_problem(frozen_parts, *settings: str) -> frozen.Frozen:
    data, embedded = frozen_parts
    chosen = recipe(data.task, "linear", ("optim.batch=3", "optim.epochs=5", *settings))
    return frozen.Frozen(data, data.splits[0], embedded, chosen, seed=0, device="cpu")


def test_an_epoch_of_a_frozen_training_ends_with_a_part_batch(frozen_parts):
    stream, public = (
        frozen_problem(frozen_parts, f"optim.part_batches={value}") for value in (False, True)
    )
    assert (stream.steps, stream.epoch_steps) == (13, 8 / 3)
    assert (public.steps, public.epoch_steps) == (15, 3)
    assert [len(batch["strong"]) for batch in public.batches(0)] == [3, 3, 2] * 5


# Heads, front-end, weight decay


def test_a_published_head_begins_with_the_bias_of_pytorch(frozen_parts):
    for settings in ((), ("as_published",)):
        chosen = fit_of(*settings)
        tuned = new_network(Small("frame_mn06"), 400, chosen, 0).head.strong_head
        for layer in (frozen.new_head(768, 11, chosen.head_prior, 0, attention=False), tuned):
            size, limit = layer.bias.abs(), layer.in_features**-0.5  # 0.036 of 768
            if settings:
                assert 0.7 * limit < size.max() < limit
                assert len(set(size.tolist())) == len(size)
            else:
                assert size.tolist() == pytest.approx([3.8918] * len(size), abs=1e-4)
    published = frozen_problem(frozen_parts, "as_published")
    assert published.model.bias.abs().max() < published.model.in_features**-0.5


def fit_of(*settings: str):
    return recipe(TASK, "finetuned", settings).fit


def test_a_published_fine_tuning_floors_decibels_over_the_batch():
    noise = torch.randn(2, 160000, generator=torch.Generator().manual_seed(0))
    audio = noise * torch.tensor([[0.5], [1e-5]])
    quiet = []
    for settings in ((), ("as_published",)):
        frontend = new_network(Small("atst_frame"), 3, fit_of(*settings), 0).frontend
        quiet.append([frontend(audio)[1], frontend(audio[1:])[0]])
    torch.testing.assert_close(*quiet[0])
    assert (quiet[1][0] - quiet[1][1]).min() > 0.05


def test_vectors_of_a_frozen_head_decay_as_told(frozen_parts):
    given = {"optim.name": "adamw", "optim.weight_decay": 0.002, "optim.vector_decay": 0.001}
    problem = frozen_problem(frozen_parts, *(f"{key}={value}" for key, value in given.items()))
    assert [group["weight_decay"] for group in problem.groups()] == [0.002, 0.001]
    adam = frozen_problem(frozen_parts, "optim.vector_decay=0.001")
    assert [group["weight_decay"] for group in adam.groups()] == [0.0, 0.0]


# Precision


def test_float16_computes_in_it_and_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    chosen = recipe(TASK, "finetuned", [*SGD, "fit.precision=16-mixed", "optim.clip_norm=5"])
    chosen = replace(chosen, fit=replace(chosen.fit, check_every_epochs=1.0))

    def run(folder: str, **options) -> Slope:
        problem = Slope(150, chosen.optim.lr, **options)
        loop.train_problem(
            problem, chosen, tmp_path / folder, seed=0, progress=False, save_every_s=0.0
        )
        return problem

    whole = run("whole")
    assert whole.dtypes == {torch.float16}
    with pytest.raises(KeyboardInterrupt):
        run("killed", killed_at=100)
    resumed = run("killed")
    assert resumed.path[-1] == whole.path[-1] > 0
    plain = Slope(150, chosen.optim.lr)
    exact = replace(chosen, fit=replace(chosen.fit, precision="32-true"))
    loop.train_problem(plain, exact, tmp_path / "plain", seed=0, progress=False)
    assert plain.dtypes == {torch.float32}
    assert whole.path[-1] == pytest.approx(plain.path[-1], rel=1e-6)
