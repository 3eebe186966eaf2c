"""Embeddings finer than 40 ms: option `hop` of plug-ins, and `--hop` of evaluations."""

import importlib
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from conftest import small
from eval_parts import records, run
from frozen_parts import tones

from eval_tasks import logmel
from eval_tasks.fit import crops
from eval_tasks.fit.features import features
from eval_tasks.fit.recipe import recipe
from eval_tasks.heareval import launch
from eval_tasks.plugin import Plugin
from hear_ptsed import hear
from hear_ptsed.grid import n_frames
from hear_ptsed.hear import HearModel, Options, get_scene_embeddings, get_timestamp_embeddings
from hear_ptsed.metrics.predicted import unpack_events
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.score import score
from hear_ptsed.windows import over_windows, with_hop

LOGMEL = "eval_tasks.logmel"
HOPS = (20, 10)


def noise(samples: int, clips: int = 1) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0)) / 9


def first_sample(audio: torch.Tensor) -> torch.Tensor:
    """A model whose frame is its own first sample: (N, 160000) -> (N, 250, 1)."""
    return audio[:, ::640, None]


@pytest.mark.parametrize("overlap", [0.0, 5.0])
@pytest.mark.parametrize("hop_ms", HOPS)
def test_every_frame_hears_the_40_ms_around_its_centre(hop_ms, overlap):
    edges = (1, 319, 320, 479, 480, 481, 639, 640, 641, 960, 159_999, 160_000, 160_160, 400_001)
    for samples in edges:
        ramp = torch.arange(samples).float()[None]
        over = partial(over_windows, model=first_sample, overlap_s=overlap)
        frames = with_hop(ramp, over, hop_ms)[0, :, 0]
        centres_ms = [20 + hop_ms * i for i in range(4000) if 20 + hop_ms * i <= samples / 16]
        want = [16.0 * (centre - 20) for centre in centres_ms or [20]]
        np.testing.assert_allclose(frames, want, atol=0.05)
        assert len(frames) == n_frames(samples, hop_ms)


@torch.no_grad()
@pytest.mark.parametrize("name", ["frame_mn06", "beats", "yamnet"])
@pytest.mark.parametrize("hop_ms", HOPS)
def test_the_plain_frames_are_among_the_finer_ones_to_the_last_bit(name, hop_ms):
    if name == "yamnet":
        load = partial(hear.load_model, name, None, untrained=True)
    else:
        load = partial(lambda **options: HearModel(small(name), Options(**options)))
    seconds = 2 if name == "yamnet" else 12  # it has no windows of 10 s
    audio, every = noise(seconds * 16000 + 77, clips=2), 40 // hop_ms
    plain, _ = get_timestamp_embeddings(audio, load())
    fine, centres = get_timestamp_embeddings(audio, load(hop=hop_ms))
    assert torch.equal(fine[:, ::every], plain)
    assert centres.dtype == torch.float32 and centres.shape == fine.shape[:2]
    assert centres[1].tolist() == [20 + hop_ms * i for i in range(fine.shape[1])]
    later, _ = get_timestamp_embeddings(audio[:, 16 * hop_ms :], load())
    assert torch.equal(fine[:, 1::every], later)
    assert not torch.allclose(fine[:, 1::every], plain[:, : later.shape[1]])
    scene = get_scene_embeddings(audio, load(hop=hop_ms))
    torch.testing.assert_close(scene, fine.mean(1))


@torch.no_grad()
def test_overlapping_windows_are_those_of_the_shifted_clip():
    load = partial(HearModel, small("frame_mn06"))
    audio = noise(13 * 16000)
    fine = load(Options(hop=20, overlap=4.0))(audio)
    plain = load(Options(overlap=4.0))
    assert torch.equal(fine[:, ::2], plain(audio))
    assert torch.equal(fine[:, 1::2], plain(audio[:, 320:]))


@torch.no_grad()
def test_a_hop_of_20_or_10_ms_embeds_two_or_four_times():
    for hop_ms, windows in ((40, 3), (20, 6), (10, 12)):
        model = HearModel(small("frame_mn06"), Options(hop=hop_ms, batch=1))
        calls, embed = [], model.model.embed
        model.model.embed = lambda x, calls=calls, embed=embed: calls.append(len(x)) or embed(x)
        model(noise(30 * 16000))
        assert sum(calls) == windows


def test_log_mel_at_20_ms_is_the_mean_of_spectrogram_frames_in_between():
    audio = noise(32_000)
    model = logmel.load_model(hop=20)
    fine, centres = logmel.get_timestamp_embeddings(audio, model)
    spec = model.frontend(torch.nn.functional.pad(audio, (0, 128_000)))[0, 0]  # (128, 1000)
    want = torch.stack([spec[:, 2 * i : 2 * i + 4].mean(1) for i in range(5, 95)])
    torch.testing.assert_close(fine[0, 5:95], want, atol=1e-4, rtol=1e-4)
    assert fine.shape == (1, 100, 128) and centres[0, -1] == 2000
    with pytest.raises(ValueError, match="hop is 30; it must be 40, 20 or 10"):
        logmel.load_model(hop=30)


PLUGIN = """
from functools import partial
from {module} import load_model as load, get_scene_embeddings, get_timestamp_embeddings
load_model = partial(load, {options})
"""


@pytest.mark.parametrize("hop_ms", HOPS)
@pytest.mark.parametrize(
    ("module", "untrained"), [("hear_ptsed.plugins.frame_mn06_strong", True), (LOGMEL, False)]
)
def test_hear_validator_is_content_with_finer_frames(
    module, untrained, hop_ms, tmp_path, monkeypatch, capsys
):
    options = f"hop={hop_ms}" + ", untrained=True" * untrained
    (tmp_path / f"fine_{hop_ms}_{untrained}.py").write_text(
        PLUGIN.format(module=module, options=options)
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch.validate(f"fine_{hop_ms}_{untrained}", device="cpu")
    assert capsys.readouterr().out.count("Received embedding of shape") == 4
    spoken = {str(w.message) for w in caught if "hearvalidator" in w.filename}
    # The first centre is 20 ms whatever the hop, so of 10 ms the tool says it is more than a hop.
    late = ["Your timestamps begin at 20.0ms"] * (hop_ms == 10)
    for told in ("A common bug we have seen", *late):  # the former is said to everybody
        assert [text for text in spoken if told in text]
    assert len(spoken) == 1 + len(late)


def test_segments_of_a_second_have_the_frames_centred_in_them():
    rng = np.random.default_rng(0)
    scores = {f"{i}.wav": rng.random((500, 1)) for i in range(6)}
    events = [{"label": "a", "start": 2300.0, "end": 4700.0}]
    reference = dict.fromkeys(scores, events)

    def pauroc(scores, hop_ms):
        durations = dict.fromkeys(reference, 10.0)
        given = Predictions(["a"], reference, durations, scores, hop_ms=hop_ms)
        return score(given, ["pauroc"]).scores["pauroc"]

    centres = 20 + 20 * np.arange(500)
    best = {f: [x[centres // 1000 == s].max() for s in range(10)] for f, x in scores.items()}
    plain = {file: np.repeat(values, 25)[:, None] for file, values in best.items()}
    assert pauroc(scores, 20) == pauroc(plain, 40) != pauroc(scores, 40)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tones(tmp_path_factory.mktemp("tasks"), weak=2)


def embedded(data, name, hop_ms, cache, **options):
    plugin = Plugin(LOGMEL, options={"hop": hop_ms})
    return features(data.with_hop(hop_ms), name, plugin, cache, progress=False, **options)


@pytest.mark.parametrize("hop_ms", HOPS)
def test_cached_features_are_finer_on_all_grids_of_windows(data, hop_ms, tmp_path):
    plain, fine = (embedded(data, "train", hop, tmp_path, shifts=3) for hop in (40, hop_ms))
    every = 40 // hop_ms
    for file in plain.part.files:
        for grid in range(3):
            assert torch.equal(fine.get(file, grid=grid)[::every], plain.get(file, grid=grid))
    assert len(fine.rows) == pytest.approx(every * len(plain.rows), abs=30)


@pytest.mark.parametrize("hop_ms", HOPS)
def test_an_epoch_hears_as_much_audio_whatever_the_hop_and_labels_lie_on_the_frames(data, hop_ms):
    part = data.with_hop(hop_ms).parts["train"]
    numbers = recipe(data.task, "linear", ["optim.batch=4", "optim.epochs=3"])
    picked, plain = (crops.Crops([p], numbers, 4, seed=0) for p in (part, data.parts["train"]))
    assert picked.plan == plain.plan
    firsts = set()
    for step in range(picked.plan.steps):
        for crop in picked.at(step)[0]:
            firsts.add(crop.first)
            assert crop.frames == 10_000 // hop_ms
            centres = 20.0 + hop_ms * np.arange(crop.first, crop.first + crop.frames)
            label = picked.label(crop)[crop.span]
            for c, name in enumerate(part.classes):
                spans = [e for e in part.events[crop.file] if e["label"] == name]
                want = np.any([(centres >= e["start"]) & (centres <= e["end"]) for e in spans], 0)
                np.testing.assert_array_equal(label[:, c], want)
    assert max(firsts) > 14_000 / 40  # beyond where 40 ms frames could begin


OURS = ["run", "--task", "office", "--quiet", "--set", "optim.batch=4", "--set", "optim.epochs=40"]


def test_a_run_with_hop_trains_decodes_and_says_so(tmp_path):
    data = tones(tmp_path / "tasks")
    folder = data.folder
    where = ["--folder", folder.name, "--tasks-dir", str(folder.parent)]
    numbers = ["--set", "optim.warmup_steps=1", "--set", "fit.check_every_epochs=20"]
    options = [*OURS, *where, *numbers, "--module", LOGMEL, "--protocol", "linear"]
    code, said = run(tmp_path / "runs", *options, "--hop", "20")
    assert code == 0, said
    (record,) = records(tmp_path / "runs").values()
    assert record["hyperparameters"]["model_options"] == {"hop": 20}
    assert "--hop 20" in record["command"] and record["scores"]["event_onset_200ms_fms"] > 0.5
    events = [
        e for of_file in unpack_events(record["predicted"], data.classes).values() for e in of_file
    ]
    assert {e["start"] % 20 for e in events} == {0} and {e["start"] % 40 for e in events} == {0, 20}
    curve = record["curves"]["event_onset_200ms_fms"]
    at_half = curve["f_measure"][curve["threshold"].index(0.5)]
    assert at_half == record["scores"]["event_onset_200ms_fms"]
    code, said = run(tmp_path / "runs", *options, "--hop", "30")
    assert code == 2 and "40, 20, 10" in said
    tuned = [*OURS, *where, "--module", "frame_mn06_strong", "--untrained", "--hop", "20"]
    code, said = run(tmp_path / "runs", *tuned, "--protocol", "finetuned")
    assert code == 1 and "the option hop is of frozen models" in said
