"""A HEAR module, of this suite or of others, whose faults are told in one line that names it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from eval_tasks.heareval.adjustments import librosa_takes_positions
from hear_ptsed.errors import one_line

OURS = ("hear_ptsed", "eval_tasks")


def find_module(name: str) -> ModuleType:
    """Import a HEAR module; the line that says why it cannot be had names it."""
    try:
        with of_2021(name):
            return import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ModuleNotFoundError(
                f"no module {name}; `hear-ptsed list` names the plug-ins of this suite"
            ) from error
        raise RuntimeError(f"{name} cannot be imported: {one_line(error)}") from error


@contextmanager
def hear_module(
    name: str, loaded: Callable[[nn.Module], None] | None = None, **options: Any
) -> Iterator[ModuleType]:
    """Import a HEAR module; within the block its two functions below say what is wrong with it.

    Args:
        loaded: is given each model that `load_model` returns.
        options: of `load_model`, beside those of its call.
    """
    module = find_module(name)
    with ExitStack() as stack:
        stack.enter_context(of_2021(name))
        if hasattr(module, "load_model"):
            load_model = module.load_model
            if not _is_ours(name):
                load_model = _explained(load_model, name)

            def load(*path: Any, **more: Any) -> nn.Module:
                model = load_model(*path, **options, **more)
                if loaded is not None:
                    loaded(model)
                return model

            stack.enter_context(patch.object(module, "load_model", load))
        if hasattr(module, "get_timestamp_embeddings"):
            checked = in_milliseconds(module.get_timestamp_embeddings, name)
            stack.enter_context(patch.object(module, "get_timestamp_embeddings", checked))
        yield module


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in OURS


def of_2021(name: str) -> AbstractContextManager:
    """What modules of others may need to run today."""
    return nullcontext() if _is_ours(name) else librosa_takes_positions()


def _explained(load_model: Callable[..., nn.Module], name: str) -> Callable[..., nn.Module]:
    """`load_model` of others, who say neither which module failed nor what may help."""

    def load(*path: Any, **options: Any) -> nn.Module:
        try:
            signature(load_model).bind(*path, **options)
        except TypeError as error:
            raise ValueError(
                f"{name}.load_model: {error}; HEAR lets it be called without any: a checkpoint is "
                "given with --model FILE (of `run`: --checkpoint FILE), options with "
                "--model-options JSON"
            ) from error
        try:
            return load_model(*path, **options)
        except Exception as error:
            raise RuntimeError(f"{name}.load_model failed: {one_line(error)}") from error

    return load


def in_milliseconds(embed: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`get_timestamp_embeddings` that refuses seconds, of which event scores become 0 or NaN.

    hearvalidator only warns.
    """

    def checked(audio: Tensor, model: nn.Module) -> Any:
        """audio (B, S) -> embeddings (B, T, D) and timestamps (B, T)"""
        answer = embed(audio, model)
        match answer:
            case (_, Tensor(shape=(_, n_frames)) as stamps) if n_frames > 1:
                last, seconds = float(stamps.max()), audio.shape[1] / model.sample_rate
                if last < 10 * seconds:
                    raise ValueError(
                        f"{name}: the last timestamp of {seconds:g} s of audio is {last:g}; "
                        "timestamps are frame centres in milliseconds, these look like seconds"
                    )
        return answer

    return checked
