"""heareval and hear-validator are imported without TensorFlow, and beside one that sees no GPU."""

import importlib
import sys
from unittest.mock import MagicMock

import pytest
import torch

from eval_tasks.__main__ import main
from eval_tasks.heareval import adjustments

pytest.importorskip("heareval")
pytest.importorskip("hearvalidator")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # dozens of the old packages' own
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def fresh_packages():
    """The HEAR packages are imported anew in the test, and what was there before comes back."""

    def mine():
        return [n for n in sys.modules if n.split(".")[0] in ("heareval", "hearvalidator")]

    before = {name: sys.modules.pop(name) for name in mine()}
    yield
    for name in mine():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def cpu_tensorflow(tmp_path, monkeypatch):
    """An installed TensorFlow that sees no GPU and refuses any other use."""
    code = (
        "import types\ntest = types.SimpleNamespace(is_gpu_available=lambda **_: False)\n"
        "def __getattr__(name):\n    raise RuntimeError(f'tensorflow.{name} was used')\n"
    )
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    yield
    sys.modules.pop("tensorflow", None)


@pytest.fixture
def torch_sees_a_gpu(monkeypatch):
    """What heareval asks about a GPU at import: torch has one, NVML names it as str."""
    pynvml = MagicMock(NVMLError=RuntimeError)
    pynvml.nvmlDeviceGetName.return_value = "NVIDIA H200"
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_without_tensorflow_both_tools_are_imported(fresh_packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # what an absent package looks like
    for name in ("heareval.embeddings.runner", "hearvalidator.validate"):
        with pytest.raises(ModuleNotFoundError, match="tensorflow"):
            importlib.import_module(name)
        with adjustments.tensorflow_stand_in():
            importlib.import_module(name)
    assert sys.modules["tensorflow"] is None


def test_an_installed_tensorflow_is_neither_used_nor_lost(fresh_packages, cpu_tensorflow, capsys):
    assert main(["validate", "eval_tasks.logmel", "-d", "cpu"]) == 0
    assert main(["heareval", "embeddings", "--help"]) == 0
    assert "tensorflow" not in sys.modules
    tensorflow = importlib.import_module("tensorflow")
    with adjustments.tensorflow_stand_in():
        assert sys.modules["tensorflow"] is not tensorflow
    assert sys.modules["tensorflow"] is tensorflow


def test_a_gpu_that_tensorflow_does_not_see_is_accepted_and_named(
    fresh_packages, cpu_tensorflow, torch_sees_a_gpu, monkeypatch, capsys
):
    with pytest.raises(ValueError, match="GPUs not available in tensorflow"):
        importlib.import_module("heareval.embeddings.runner")
    with pytest.raises(AttributeError, match="decode"):
        sys.modules["heareval.gpu_max_mem"].device_name()
    for name in [n for n in sys.modules if n.startswith("heareval")]:
        del sys.modules[name]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pynvml", None)
        assert main(["heareval", "embeddings", "--help"]) == 1
    assert "nvidia-ml-py is not installed" in capsys.readouterr().err
    assert main(["heareval", "embeddings", "--help"]) == 0
    assert sys.modules["heareval.gpu_max_mem"].device_name() == "NVIDIA H200"
    assert sys.modules["pynvml"].nvmlDeviceGetName(0) == "NVIDIA H200"
