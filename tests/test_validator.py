"""The real hearvalidator on every plug-in."""

import warnings

import pytest

from eval_tasks.heareval import launch
from hear_ptsed import list_models

MODULES = [row.module for row in list_models()] + ["eval_tasks.logmel"]


@pytest.mark.parametrize("module", MODULES)
def test_hear_validator_finds_nothing_to_complain_about(module, capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch.validate(module, device="cpu", untrained=module != "eval_tasks.logmel")
    assert capsys.readouterr().out.count("Received embedding of shape") == 4
    spoken = {str(w.message) for w in caught if "hearvalidator" in w.filename}
    assert len(spoken) == 1 and "A common bug we have seen" in spoken.pop()  # said to everybody
