"""Models in ONNX files, run on a CPU: by ONNX Runtime in float32, which needs the extra `onnx`, or
by OpenVINO in bfloat16, which needs the extra `openvino`.

Such a file takes audio (B, 160000) at 16 kHz, with any B, and gives what it has of strong
(B, C, 250), weak (B, C) and frames (B, 250, D); what it is stands in its metadata, see `Facts`.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hear_ptsed.errors import require_package
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW
from hear_ptsed.model import Output, SEDModel
from hear_ptsed.schema import Label, Line, Sha256, check_json, settings
from hear_ptsed.windows import check_audio

Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # audio (B, 160000) -> outputs by name
KEY = "hear_ptsed"  # of the metadata: Facts as JSON


@settings(kw_only=True)
class Facts:
    """What an ONNX file says of itself."""

    version: Line  # of this project
    model: Label | None  # in the registry; None: not registered
    stage: Label | None  # of the released file; None: another file, or random weights
    checkpoint: Line | None  # name of the file that the weights are of; None: random weights
    sha256: Sha256 | None  # of that file
    sequence_model: Label | None  # its kind
    heads: tuple[Literal["strong", "weak"], ...]
    classes: Annotated[tuple[Line, ...], Field(max_length=100_000)] | None  # of the first head
    sample_rate: int  # Hz
    samples: int  # of a window
    frames_per_second: int
    dim: int  # of the frames
    error: float  # see export.py: the largest difference from torch, relative to values


class RuntimeModel(nn.Module):
    """A model in an ONNX file, where an SEDModel stands in plug-ins and detectors.

    It takes whole windows only and computes on a CPU; its weights are no parameters.

    Args:
        content: of the file.
        name: of the file, for messages.
        runtime: what computes.
    """

    over, over_clips = SEDModel.over, SEDModel.over_clips

    def __init__(self, content: bytes, name: str, runtime: Literal["onnx", "openvino"] = "onnx"):
        super().__init__()
        self.name = name
        self.facts = read_facts(content, name)
        self._run = {"onnx": _start_onnx, "openvino": _start_openvino}[runtime](content)

    @property
    def width(self) -> int:
        """D of the frames."""
        return self.facts.dim

    def classes_of(self, head: str, name: str = "the model") -> tuple[str, ...]:
        """Names of the classes of a head; a ValueError if there is none, or no names."""
        if head not in self.facts.heads or self.facts.classes is None:
            raise ValueError(f"{name} has no {head} head with named classes; export one that has")
        return self.facts.classes

    def forward(self, audio: Tensor) -> Output:
        """audio (B, 160000) in [-1, 1] at 16 kHz -> strong (B, C, 250), weak (B, C), frames
        (B, 250, D).
        """
        check_audio(audio)
        if audio.shape[1] != WINDOW:
            raise ValueError(
                f"audio has {audio.shape[1]} samples; {self.name} takes windows of {WINDOW} (10 s "
                "at 16 kHz): resample, and use `over` for clips of other lengths"
            )
        outputs = self._run(audio.float().cpu().numpy())
        tensors = {key: torch.from_numpy(value).to(audio.device) for key, value in outputs.items()}
        return Output(tensors.get("strong"), tensors.get("weak"), tensors["frames"])

    def embed(self, windows: Tensor) -> Tensor:
        """(B, 160000) -> frames (B, 250, D) float32."""
        return self(windows).frames


def read_facts(content: bytes, name: str) -> Facts:
    """What the content of an ONNX file says of itself; a ValueError if it is not of this project.

    Args:
        name: of the file, for the message.
    """
    onnx = require_package("onnx", "onnx")
    try:
        metadata = {p.key: p.value for p in onnx.load_model_from_string(content).metadata_props}
    except Exception as error:  # of protobuf, which has several
        raise ValueError(f"{name} is no ONNX file, or damaged: export it again") from error
    if KEY not in metadata:
        raise ValueError(f"{name} does not say what it is: give a file of `hear-ptsed export`")
    facts = check_json(Facts, metadata[KEY], f"{name}: its metadata")
    ours = {
        "sample_rate": SAMPLE_RATE,
        "samples": WINDOW,
        "frames_per_second": FRAMES_PER_SECOND,
    }
    for fact, value in ours.items():
        if getattr(facts, fact) != value:
            raise ValueError(
                f"{name} has {fact} {getattr(facts, fact)}; this version takes {value}: export "
                "it again"
            )
    return facts


def _start_onnx(content: bytes) -> Run:
    onnxruntime = require_package("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning, for equal shares, lose half the speed beside other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.dynamic_block_base", "4")
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(audio: np.ndarray) -> dict[str, np.ndarray]:
        """(B, 160000) -> outputs by name."""
        return dict(zip(names, session.run(names, {"audio": audio}), strict=True))

    return run


def _start_openvino(content: bytes) -> Run:
    core = require_package("openvino", "openvino").Core()
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    compiled = core.compile_model(core.read_model(content), "CPU", hints)

    def run(audio: np.ndarray) -> dict[str, np.ndarray]:
        """(B, 160000) -> outputs by name."""
        outputs = compiled(audio)
        return {port.any_name: outputs[port].copy() for port in compiled.outputs}

    return run
