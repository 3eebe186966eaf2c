"""ONNX files say what torch says, whatever the batch, and say what they are."""

import json
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import NETWORKS, small

import hear_ptsed
from hear_ptsed import detect, hear
from hear_ptsed.checkpoints.save import save_checkpoint
from hear_ptsed.cli import main
from hear_ptsed.heads import AttentionHead
from hear_ptsed.registry import MODELS, build
from hear_ptsed.sequence import build_sequence_model

pytest.importorskip("onnxscript", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from hear_ptsed.export import export, to_onnx  # noqa: E402
from hear_ptsed.runtime import KEY, RuntimeModel  # noqa: E402

TRANSFORMERS = [name for name in NETWORKS if not MODELS[name].batch_norm]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of the smallest registered model with two classes."""
    path = tmp_path_factory.mktemp("model") / "mine.pt"
    torch.manual_seed(0)
    save_checkpoint(build("fmn02", 2).eval(), path, ["dog", "cat"])
    return path


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The same as an ONNX file."""
    path = checkpoint.with_name("mine.onnx")
    export(path, "fmn02", checkpoint=checkpoint)
    return path


@pytest.fixture
def audio():
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(2, 16_000 * 13, generator=generator)


def near(got, want):
    """Within 1e-5 of the largest value, or of 1: of a head's logits near 0."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("name", [*TRANSFORMERS, "frame_mn06"])
def test_the_file_says_what_torch_says_at_any_batch(name):
    model = small(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = to_onnx(model)
    assert not model.folded
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
    onnx.checker.check_model(onnx.load_model_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        windows = 0.1 * torch.randn(batch, 160_000)
        with torch.no_grad():
            want = model(windows)
        got = session.run(list(want._fields), {"audio": windows.numpy()})
        for ours, theirs in zip(got, want, strict=True):
            near(torch.from_numpy(ours), theirs)


SLOW = pytest.param("hybrid", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["transformer", SLOW, "mamba2"])
def test_sequence_models_and_attention_heads_are_inside(kind):
    model = small("atst_frame")
    model.sequence = build_sequence_model(kind, in_dim=24, dim=32, layers=1)
    model.head = AttentionHead(32, 5)
    runs = RuntimeModel(to_onnx(model.eval()), "x.onnx")
    assert runs.facts.sequence_model == kind and runs.width == 32
    windows = 0.1 * torch.randn(3, 160_000)
    with torch.no_grad():
        for got, want in zip(runs(windows), model(windows), strict=True):
            near(got, want)


def test_a_file_says_what_it_is(exported, checkpoint):
    from hear_ptsed.files import sha256

    facts = RuntimeModel(exported.read_bytes(), "x.onnx").facts
    assert (facts.model, facts.stage, facts.checkpoint) == ("fmn02", None, "mine.pt")
    assert facts.sha256 == sha256(checkpoint)
    assert facts.classes == ("dog", "cat") and facts.heads == ("strong", "weak")
    assert (facts.sample_rate, facts.samples, facts.frames_per_second) == (16_000, 160_000, 25)
    assert facts.version == hear_ptsed.__version__ and 0 < facts.error <= 1e-5


def test_a_plug_in_embeds_with_a_runtime_as_with_torch(exported, checkpoint, audio):
    want, centres = hear.get_timestamp_embeddings(
        audio, hear.load_model("fmn02", None, str(checkpoint), overlap=2.0)
    )
    for path in (checkpoint, exported):
        model = hear.load_model("fmn02", None, str(path), runtime="onnx", overlap=2.0)
        got, when = hear.get_timestamp_embeddings(audio, model)
        near(got, want)
        assert when.equal(centres) and model.timestamp_embedding_size == want.shape[2]


def test_a_transformer_is_reduced_to_a_block_before_it_is_made_one(monkeypatch, audio):
    options = {"layer": 1, "untrained": True}
    monkeypatch.setitem(
        MODELS, "m2d", replace(MODELS["m2d"], backbone=lambda: small("m2d").backbone)
    )
    want = hear.load_model("m2d", "ssl", **options)
    got = hear.load_model("m2d", "ssl", **options, runtime="onnx")
    near(got(audio), want(audio).detach())
    assert "M2D" in repr(got)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    samples = np.random.default_rng(0).integers(-9000, 9000, 12 * 16_000, dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path


def test_openvino_embeds_a_transformer_in_bfloat16(monkeypatch, audio):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    monkeypatch.setitem(
        MODELS, "m2d", replace(MODELS["m2d"], backbone=lambda: small("m2d").backbone)
    )
    want = hear.load_model("m2d", "ssl", untrained=True)(audio).detach()
    low = {"precision": "bfloat16", "untrained": True}
    got = hear.load_model("m2d", "ssl", **low, runtime="openvino")(audio)
    assert (got - want).norm() / want.norm() < 0.02


def test_detect_scores_with_a_runtime_as_with_torch(exported, checkpoint, clip):
    torch_options = detect.DetectorOptions(device="cpu")
    want = detect.detect(clip, detect.load_detector("fmn02", None, checkpoint, torch_options))
    options = detect.DetectorOptions(runtime="onnx")
    detector = detect.load_detector("fmn02", checkpoint=exported, options=options)
    assert detector.classes == ("dog", "cat") and detector.checkpoint == "mine.onnx"
    np.testing.assert_allclose(detect.detect(clip, detector).scores, want.scores, atol=1e-5)


def test_the_command_writes_the_same_file_and_detects_with_it(
    exported, checkpoint, clip, tmp_path, capsys
):
    out = tmp_path / "again.onnx"
    assert main(["export", "fmn02", "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["classes"], facts["checkpoint"]) == ("fmn02", 2, "mine.pt")
    assert out.read_bytes() == exported.read_bytes()
    tables = []
    for weights, runtime in ((checkpoint, "torch"), (out, "onnx")):
        chosen = ["--checkpoint", str(weights), "--runtime", runtime, "--threshold", "0.4"]
        assert main(["detect", str(clip), "--model", "fmn02", *chosen]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and tables[0].count("\n") > 1
    assert main(["export", "fmn02", "--checkpoint", str(clip), "--out", str(out)]) == 1
    assert "clip.wav" in capsys.readouterr().err


def load(path, **options):
    return hear.load_model("fmn02", None, str(path), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "mine.onnx is an ONNX file, which torch cannot run; take runtime onnx"),
        ({"runtime": "onnx", "compile": True}, "onnx computes in float32, uncompiled; asked for"),
        ({"runtime": "onnx", "precision": "bfloat16"}, "onnx computes in float32, uncompiled"),
        ({"runtime": "openvino"}, "openvino computes in bfloat16, uncompiled; asked for are prec"),
        ({"runtime": "openvino", "precision": "bfloat16"}, "FrameMN breaks in bfloat16, which"),
        ({"runtime": "gpu"}, "runtime is 'gpu'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(exported, options, message):
    with pytest.raises(ValueError, match=message):
        load(exported, **options)


def test_a_runtime_has_no_other_device():
    with pytest.raises(ValueError, match="runtime onnx computes on the cpu only"):
        detect.DetectorOptions(runtime="onnx", device="cuda").usable_device()


def test_a_file_of_another_model_or_with_chosen_blocks_is_refused(exported):
    with pytest.raises(ValueError, match="holds the model fmn02; asked for is beats"):
        hear.load_model("beats", None, str(exported), runtime="onnx")
    with pytest.raises(ValueError, match="mine.onnx is fixed: leave out layer"):
        hear.load_model("beats", None, str(exported), runtime="onnx", layer=2)


@pytest.mark.parametrize("samples", [159_999, 441_000])
def test_other_lengths_than_a_window_are_refused_by_a_sentence(exported, samples):
    model = RuntimeModel(exported.read_bytes(), "mine.onnx")
    with pytest.raises(ValueError, match=f"audio has {samples} samples; mine.onnx takes windows"):
        model(torch.zeros(1, samples))


def test_another_rate_is_refused_by_a_sentence(exported, audio):
    model = load(exported, runtime="onnx")
    model.sample_rate = 44_100
    with pytest.raises(ValueError, match="takes 16000 Hz only"):
        hear.get_timestamp_embeddings(audio, model)


def edited(exported, tmp_path, change):
    """A copy of a file whose metadata were changed in place."""
    proto = onnx.load_model(str(exported))
    change(proto.metadata_props)
    path = tmp_path / "edited.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_plug_in_that_embeds_by_the_backbone_refuses_a_file_with_a_sequence_model(
    exported, tmp_path
):
    def stacked(metadata):
        old, new = '"sequence_model": null', '"sequence_model": "tcn"'
        metadata[0].value = metadata[0].value.replace(old, new)

    path = edited(exported, tmp_path, stacked)
    with pytest.raises(ValueError, match="embeds by its sequence model, fmn02 by its backbone"):
        load(path, runtime="onnx")


def test_what_is_no_file_of_ours_is_refused_by_name(exported, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(ValueError, match="broken.onnx is no ONNX file, or damaged"):
        load(broken, runtime="onnx")
    of_others = edited(exported, tmp_path, lambda metadata: metadata.pop())
    with pytest.raises(ValueError, match="edited.onnx does not say what it is"):
        load(of_others, runtime="onnx")


def test_a_file_for_another_rate_is_refused(exported, tmp_path):
    def faster(metadata):
        assert metadata[0].key == KEY
        metadata[0].value = metadata[0].value.replace('"sample_rate": 16000', '"sample_rate": 8000')

    with pytest.raises(ValueError, match="edited.onnx has sample_rate 8000; this version takes"):
        load(edited(exported, tmp_path, faster), runtime="onnx")


def test_what_cannot_be_exported_is_told(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="YamNet cannot be exported"):
        to_onnx(hear_ptsed.load("yamnet", stage=None))
    with pytest.raises(ValueError, match="does not end in .onnx"):
        export(tmp_path / "x.pt", "fmn02", checkpoint=checkpoint)


def test_a_model_that_is_not_computed_as_torch_does_is_not_written(monkeypatch, checkpoint):
    monkeypatch.setattr("hear_ptsed.export.TOLERANCE", 0.0)
    out = checkpoint.with_name("bad.onnx")
    with pytest.raises(RuntimeError, match="the exported model differs from torch by"):
        export(out, "fmn02", checkpoint=checkpoint)
    assert not out.exists()
