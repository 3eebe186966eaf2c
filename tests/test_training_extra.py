"""Online teachers on mixed clips, and clips that only they label, against their definition."""

import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from conftest import SMALL
from scipy.special import betaincinv
from test_training_step import assert_same_step, bce, labels_by_hand, pooled_by_hand
from torch import Tensor
from training_corpus import write_corpus
from training_parts import (
    STEP,
    Memory,
    audio_by_hand,
    batch_of,
    clip_set,
    network,
    seeded,
    sound,
    source,
    table,
    training,
)

from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, build
from training.data.batch import ClipSet
from training.data.sampling import AUGMENT, MODEL, Picks, torch_seed
from training.data.sources import open_extra
from training.fit import fit, open_data, start_model
from training.recipe import Data, Source, load

pytestmark = pytest.mark.usefixtures("one_thread")


def with_extra(memory: Memory, others: Memory) -> ClipSet:
    extra = clip_set(others, events=table(others.keys), labels="weak")
    return replace(clip_set(memory, events=table(memory.keys)), extra=extra)


def both(train: ClipSet, partner: list[int] | None = None) -> dict:
    rows = np.arange(len(train.extra))
    extra = Picks(STEP, rows, np.zeros(len(rows)), rows)
    return batch_of(train, partner=partner) | {"extra": train.extra[extra]}


def taught() -> SEDModel:
    """A teacher with another front-end than the student's: 998 frames."""
    teacher = network("asit").eval()
    torch.manual_seed(4)
    torch.nn.init.normal_(teacher.head.strong_head.weight, std=0.5)
    return teacher


def beta_by_hand(draw: torch.Generator, n: int, alpha: float) -> Tensor:
    """Shares of the partners, at most a half."""
    uniform = torch.rand(n, dtype=torch.float64, generator=draw).numpy()
    return torch.from_numpy(betaincinv(alpha, alpha, uniform / 2)).float()


def mixed(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    share = share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return (1 - share) * x + share * x[partner]


def rolled(x: Tensor, shift: Tensor) -> Tensor:
    return torch.stack([torch.roll(row, int(s), -1) for row, s in zip(x, shift, strict=True)])


def logits_of(model: SEDModel, spec: Tensor) -> Tensor:
    frames, head = pooled_by_hand(model.backbone(spec).double()), model.head.strong_head
    return torch.einsum("btd,cd->bct", frames, head.weight.double()) + head.bias.double()[:, None]


@pytest.mark.parametrize("weight", [0.9, 1.0])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_extra_clips_learn_from_teachers_alone_in_their_share_of_the_loss(weight, share):
    memory, others = source(n=2), source(n=3, prefix="y")
    train, teacher = with_extra(memory, others), taught()
    module = training(
        network("atst_frame"), train, [teacher], weight, extra={"weight": share, "mixup_p": 0}
    )
    student, audio = module.model, [audio_by_hand(m) for m in (memory, others)]
    z, extra_z = (logits_of(student, student.frontend(a)) for a in audio)
    with torch.no_grad():
        soft, extra_soft = (teacher(a).strong.double().sigmoid() for a in audio)
    assert soft.std() > 0.1
    expected = (1 - weight) * bce(z, labels_by_hand(table(memory.keys), memory.keys)).mean()
    expected = expected + weight * (1 - share) * bce(z, soft).mean()
    expected = expected + weight * share * bce(extra_z, extra_soft).mean()
    assert_same_step(module, both(train), expected)


@pytest.mark.parametrize("hear", ["augmented", "audio"])
def test_teachers_of_mixed_clips_equal_the_published_formula(hear):
    """0.1 BCE(labels) + 0.9 (0.5 BCE(teacher) + 0.5 BCE(teacher on the extra clips)), all mixed."""
    memory, others = source(n=3), source(n=3, prefix="y")
    train, teacher, partner = with_extra(memory, others), taught(), torch.tensor([1, 2, 0])
    module = training(
        network("atst_frame"),
        train,
        [teacher],
        0.9,
        distill={"teachers_hear": hear},
        augment={"wavmix_p": 1.0, "frame_shift": 0.125, "mixup_p": 1.0, "mixup_alpha": 2.0},
    )
    student, draw = module.model, seeded(torch_seed(0, AUGMENT, STEP, 0))
    torch.manual_seed(torch_seed(0, MODEL, STEP, 0))
    audio, hard = audio_by_hand(memory), labels_by_hand(table(memory.keys), memory.keys)
    share = beta_by_hand(draw, 3, 2.0)
    audio, hard = mixed(audio, partner, share), mixed(hard, partner, share)
    audio = audio - audio.mean(-1, keepdim=True)
    specs = [model.frontend(audio) for model in (student, teacher)]
    n, n_teacher = (spec.shape[-1] for spec in specs)
    assert (n, n_teacher) == (1001, 998)
    shift = (torch.randn(3, generator=draw) * 125).trunc()
    assert shift.abs().max() > 100
    assert torch.rand((), generator=draw) < 1
    other = torch.randperm(3, generator=draw)
    share = beta_by_hand(draw, 3, 2.0)
    assert share.max() > 0.3 and (other != torch.arange(3)).any()

    def shifted_and_mixed(x: Tensor, by: Tensor) -> Tensor:
        return mixed(rolled(x, by), other, share)

    of_labels = (shift / 4).round()
    z = logits_of(student, shifted_and_mixed(specs[0], shift))
    with torch.no_grad():
        if hear == "augmented":
            spec = shifted_and_mixed(specs[1], (shift * n_teacher / n).round())
            soft = teacher.detect(spec).strong.double().sigmoid()
        else:
            soft = shifted_and_mixed(teacher(audio).strong.double().sigmoid(), of_labels)
    for _ in range(3):  # mixstyle, filter and warp are off
        torch.rand((), generator=draw)
    hard = shifted_and_mixed(hard, of_labels)

    audio = audio_by_hand(others)
    assert torch.rand((), generator=draw) < 1
    other = torch.randperm(3, generator=draw)
    share = beta_by_hand(draw, 3, 0.3)
    assert share.max() > 0.1 and (other != torch.arange(3)).any()
    extra_z = logits_of(student, mixed(student.frontend(audio), other, share))
    with torch.no_grad():
        if hear == "augmented":
            spec = mixed(teacher.frontend(audio), other, share)
            extra_soft = teacher.detect(spec).strong.double().sigmoid()
        else:
            extra_soft = mixed(teacher(audio).strong.double().sigmoid(), other, share)
    kd = 0.5 * bce(z, soft).mean() + 0.5 * bce(extra_z, extra_soft).mean()
    expected = 0.1 * bce(z, hard).mean() + 0.9 * kd
    assert_same_step(module, both(train, partner.tolist()), expected)


def test_unreadable_extra_clips_teach_nothing_and_count_as_the_others():
    memory, others = source(n=2), source(n=2, prefix="y")
    train, teacher = with_extra(memory, others), taught()
    others.audio[1] = None
    options = {"extra": {"mixup_p": 0}, "data": {"max_unreadable": 0.3}}
    module = training(network("atst_frame"), train, [teacher], 0.9, **options)
    student, audio = module.model, audio_by_hand(memory)
    others.audio[1] = sound(10.0, 16000, 0)
    extra_audio = audio_by_hand(others)[:1]
    others.audio[1] = None
    z, extra_z = (logits_of(student, student.frontend(a)) for a in (audio, extra_audio))
    with torch.no_grad():
        soft, extra_soft = (teacher(a).strong.double().sigmoid() for a in (audio, extra_audio))
    hard = labels_by_hand(table(memory.keys), memory.keys)
    kd = 0.5 * bce(z, soft).mean() + 0.5 * bce(extra_z, extra_soft).mean() / 2
    assert_same_step(module, both(train), 0.1 * bce(z, hard).mean() + 0.9 * kd)
    assert module.unreadable.reasons == {"y1": "y1: cut off"}
    train.report_unreadable(module.unreadable.reasons)
    assert train.extra.coverage[0].unreadable == {"y1": "y1: cut off"}
    assert train.coverage[0].unreadable == {}
    strict = training(network("atst_frame"), train, [teacher], 0.9, data={"max_unreadable": 0.2})
    with pytest.raises(RuntimeError, match="1 of 4 clips are unreadable"):
        strict.training_step(both(train), 0)


# From files


def write_clip_labels(path: Path, labels: np.ndarray) -> None:
    """HDF5 of short clips with labels (N, 527)."""
    file = io.BytesIO()
    soundfile.write(file, sound(1.0, 16000, 0), 16000, format="MP3")
    with h5py.File(path, "w") as hdf:
        hdf["audio_name"] = np.array([f"Yw{i:010d}.mp3" for i in range(len(labels))], "S20")
        mp3 = hdf.create_dataset("mp3", len(labels), dtype=h5py.vlen_dtype(np.uint8))
        for i in range(len(labels)):
            mp3[i] = np.frombuffer(file.getvalue(), np.uint8)
        hdf["target"] = np.packbits(labels, axis=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("corpus"))
    labels = np.zeros((9, 527), np.uint8)
    labels[:, 3], labels[4:, 500], labels[8, 20] = 1, 1, 1
    labels[0] = 0  # a clip of which nothing is known
    write_clip_labels(folder / "weak.hdf", labels)
    (folder / "classes.txt").write_text("\n".join(f"class {i:03d}" for i in range(527)))
    return folder


def test_extra_clips_are_chosen_by_the_rarity_of_their_stored_labels(corpus):
    data = Data(root=str(corpus))
    extra = open_extra([Source(audio="weak.hdf", classes="classes.txt")], data)
    assert len(extra) == 9
    expected = np.zeros(9)
    expected[1:] += 1000 / (100 + 8)
    expected[4:] += 1000 / (100 + 5)
    expected[8] += 1000 / (100 + 1)
    weights = extra.weights(250 * 100)
    np.testing.assert_allclose(weights, expected, atol=1e-30)
    with pytest.raises(ValueError, match="stores 527 classes.*audio: weak.hdf, classes: FILE"):
        open_extra([Source(audio="weak.hdf")], data)


def options(corpus: Path, out: Path) -> list[str]:
    clips = "{audio: weak.hdf, classes: classes.txt}, {audio: eval.hdf, events: eval.tsv}"
    data = "[{audio: train.hdf, events: train.tsv}]"
    given = {"model.name": "frame_mn02", "model.start": "none", "data.root": corpus}
    given |= {"data.train": data, "data.eval": "[]", "data.classes": "events", "data.workers": 0}
    given |= {"distill.teachers": "[teacher.pt]", "extra.clips": f"[{clips}]"}
    given |= {"optim.warmup_steps": 1, "optim.batch": 4, "optim.accumulate": 2, "optim.epochs": 2}
    given |= {"run.accelerator": "cpu", "run.loggers": "[]", "run.progress": False, "run.out": out}
    return [f"{name}={value}" for name, value in given.items()]


def test_a_run_with_extra_clips_goes_from_files_to_a_model(corpus, tmp_path):
    recipe = load(["student_online"], options(corpus, tmp_path / "run"))
    train, _ = open_data(recipe)
    assert (len(train), len(train.extra)) == (8, 9 + 5)
    teacher = start_model(recipe, train.classes)
    save_checkpoint(teacher, corpus / "teacher.pt", train.classes, ["strong_head"])
    path = fit(recipe)
    assert path.exists()
    folder = tmp_path / "run"
    assert len(list(folder.glob("coverage-*.json"))) == 3  # one for each annotation
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert not any("teacher" in key for key in state["state_dict"])


def test_a_teacher_can_be_a_model_of_the_list(corpus, tmp_path, monkeypatch):
    row = MODELS["frame_mn06"]
    monkeypatch.setitem(MODELS, "frame_mn06", replace(row, backbone=SMALL["frame_mn06"]))
    given = [*options(corpus, tmp_path / "run"), "distill.teachers=[frame_mn06]"]
    recipe = load(["student_online"], given)
    classes = open_data(recipe)[0].classes
    model = build("frame_mn06", len(classes))
    for folder, names in (("wrong", classes[::-1]), ("right", classes)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / row.checkpoints["strong"][0]
        save_checkpoint(model, file, names, ["strong_head"])
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path / "wrong"))
    with pytest.raises(ValueError, match="teacher frame_mn06 has other classes than this run"):
        fit(recipe)
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path / "right"))
    assert fit(recipe).exists()
