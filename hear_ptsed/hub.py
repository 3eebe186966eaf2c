"""Models as repositories of the Hugging Face Hub: written, pushed, opened; needs the extra `hub`.

    HubModel(hear_ptsed.load("beats"), "beats_strong").save_pretrained("folder")
    HubModel.from_pretrained("OWNER/NAME")  # or hear_ptsed.load("hf:OWNER/NAME")

A repository holds model.safetensors, a checkpoint that describes itself, config.json and a card.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_ptsed import load
from hear_ptsed.card import FREE, TAG, Card
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.checkpoints.names import find_registered
from hear_ptsed.checkpoints.repository import (
    SCHEME,
    WEIGHTS,
    fetch_weights,
    locate,
    parse_place,
    plain_errors,
)
from hear_ptsed.checkpoints.save import refuse_folded
from hear_ptsed.errors import few, shown
from hear_ptsed.facts import MODELS_CSV, ModelFacts, all_facts
from hear_ptsed.files import atomic_folder, locked, write_json
from hear_ptsed.model import Output, SEDModel
from hear_ptsed.registry import find_parts, plugins, trainable

try:
    from huggingface_hub import ModelCard, ModelHubMixin
except ImportError as error:
    raise ImportError(
        f"hear_ptsed.hub needs huggingface_hub: pip install 'hear_ptsed[hub]' ({error})"
    ) from error


class HubModel(nn.Module, ModelHubMixin):
    """A model of the registry that can be written for the Hub.

    A checkpoint that was changed since, by training for example, is no released one any more.

    Args:
        model: as `hear_ptsed.load` gives it.
        released: the plug-in whose released weights these are, such as "beats_strong"; None for
            other weights.
    """

    def __init__(self, model: SEDModel, released: str | None = None):
        super().__init__()
        if not isinstance(model, SEDModel):
            raise TypeError(
                f"{type(model).__name__} is no SEDModel: give what hear_ptsed.load gives"
            )
        refuse_folded(model, "write")
        if released is not None:
            _check_released(model, released)
        _find_facts(model, released)  # what could not be opened again is refused
        self.model = model
        self._released, self._sealed = released, released and _digest(model)

    @property
    def released(self) -> str | None:
        """The plug-in whose released weights these are; None for others, changed ones too."""
        unchanged = self._released is not None and _digest(self.model) == self._sealed
        return self._released if unchanged else None

    def forward(self, audio: Tensor) -> Output:
        """(B, S) at 16 kHz, at most 10 s -> logits strong (B, C, T), weak (B, C); frames (B, T, D).

        What the model has no head for is None.
        """
        return self.model(audio)

    def card(self, licence: str | None = None, repository: str = "OWNER/NAME") -> Card:
        """The model card; `licence` is that of the weights, if not the one that authors name."""
        released = self.released
        facts = _find_facts(self.model, released)
        return Card(self.model, facts, released, licence or None, repository)

    def push_to_hub(self, repo_id: str, *, licence: str | None = None, **how: Any) -> str:
        """Upload the model as OWNER/NAME; see huggingface_hub.ModelHubMixin.push_to_hub.

        Args:
            licence: of the weights, as the Hub spells it ("mit", "other", ...); it must be given
                where their authors do not plainly allow to pass them on.
        Returns:
            The address of the commit.
        """
        card = self.card(licence)
        if not licence and card.known_licence not in FREE:
            raise ValueError(
                f"{repo_id} was not pushed. {card.terms} If you may pass the weights on, name "
                "their licence by licence="
            )
        texts = {"licence": licence, "repository": repo_id}
        return super().push_to_hub(repo_id, **how | {"model_card_kwargs": texts})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Path | str, **how: Any) -> "HubModel":
        """Open a folder, or OWNER/NAME; see huggingface_hub.ModelHubMixin.from_pretrained."""
        name = str(pretrained_model_name_or_path)
        if name.startswith(SCHEME):
            name, how["revision"] = parse_place(name)
        with plain_errors(name, how.get("revision")):
            return super().from_pretrained(name, **how)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, released: dict[str, str] | None = None, **how: Any
    ) -> "HubModel":
        folder = Path(model_id)
        path = locate(folder) if folder.is_dir() else fetch_weights(model_id, **how)
        model = cls(load(checkpoint=path)).eval()
        if isinstance(released, dict) and released.get("plugin") in plugins():
            model._released, model._sealed = released["plugin"], released.get("sha256")
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self.model, save_directory / WEIGHTS, self.model.classes)
        plugin = self.released
        seal = {"plugin": plugin, "sha256": self._sealed} if plugin else None
        write_json(save_directory / "config.json", {"released": seal})
        card = save_directory / "README.md"
        if card.exists() and TAG in card.read_text(encoding="utf-8", errors="replace"):
            card.unlink()  # of the model that was here before; the mixin keeps what it finds

    def generate_model_card(self, **texts: str | None) -> ModelCard:
        """README.md, which the mixin writes; `texts` are arguments of `card`."""
        return ModelCard(str(self.card(**texts)))


def _digest(model: SEDModel) -> str:
    """SHA-256 of the names and values of a model's state."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_released(model: SEDModel, plugin: str) -> None:
    """Refuse a model that was not opened from the released file of a plug-in."""
    name, stage = _find_stage(plugin)
    files = find_parts(name).checkpoints[stage]
    report = model.report
    if report is None or report.random or Path(report.file).name not in files:
        raise ValueError(
            f"this model is not {plugin} as released, in {' or '.join(files)}: leave `released` "
            "out, or load that file"
        )


def export_folder(module: str, folder: Path) -> Card:
    """Write the released weights of a plug-in as a folder for the Hub, whole or not at all.

    Args:
        module: such as beats_strong.
        folder: one that is not there, or empty.
    """
    name, stage = _find_stage(module)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty: name a new folder")
    model = HubModel(load(name, stage), module.rpartition(".")[2])
    with locked(folder, beside=True), atomic_folder(folder) as new:
        model.save_pretrained(new)
    return model.card()


def _find_stage(module: str) -> tuple[str, str]:
    """Model and stage of a plug-in that has released files of weights."""
    known = {name: what for name, what in plugins().items() if what[1] is not None}
    name = str(module).removeprefix("hear_ptsed.plugins.")
    if name not in known:
        raise ValueError(
            f"{shown(module)} is no module of released weights that can be written anew; such are "
            f"{few([*known], 3)}: see `hear-ptsed list --json`"
        )
    return known[name]


def _find_facts(model: SEDModel, released: str | None) -> ModelFacts:
    """Of released weights or, of others, of the first registered model that is built alike."""
    registered = find_registered(model.backbone)
    if registered is None:
        raise ValueError(
            f"a {type(model.backbone).__name__} of these sizes cannot be opened again; models that "
            f"can: {', '.join(trainable())}"
        )
    if released is None:
        rows = [facts for facts in all_facts().values() if facts.model == registered]
        if not rows:
            raise ValueError(f"nothing is known of {registered}: add a row to {MODELS_CSV}")
        return rows[0]
    return all_facts()[_find_stage(released)]
