"""A model card: what a model is and learned from, how to use it, its licence and what to cite."""

import re
from dataclasses import dataclass

from hear_ptsed.facts import ModelFacts, bibliography
from hear_ptsed.grid import FRAME_MS, SAMPLE_RATE, WINDOW, WINDOW_FRAMES, WINDOW_S
from hear_ptsed.model import SEDModel

TAG = "library_name: hear_ptsed"  # in the head of every card of ours
FREE = {"MIT": "mit", "Apache-2.0": "apache-2.0"}  # to pass weights on -> as the Hub spells it
TAGS = ("audio", "hear", "model_hub_mixin", "sound-event-detection")


@dataclass(frozen=True)
class Card:
    """What the text of a card is made of."""

    model: SEDModel
    facts: ModelFacts  # of the released weights or, of other weights, of a model built alike
    released: str | None  # the plug-in whose released weights these are
    licence: str | None  # as the publisher says; None for what the authors say
    repository: str  # OWNER/NAME

    def __str__(self) -> str:
        cite = "\n\n".join(bibliography()[key] for key in self.facts.cite)
        name = self.released or f"A model of the kind {self.facts.model}"
        parts = (
            self._head(),
            f"# {name}",
            "Sound event detection and frame-level audio embeddings, a model of the Python package "
            "`hear_ptsed`.",
            "\n".join(f"- {line}" for line in self._list_facts()),
            "## Use",
            self._use(),
            "## Licence",
            f"Its publisher says: {self.licence}." if self.licence else self.terms,
            "## Citation",
            f"```bibtex\n{cite}\n```",
        )
        return "\n\n".join(parts) + "\n"

    @property
    def known_licence(self) -> str:
        """Of released weights, as their authors name it; "" for none."""
        return self.facts.licence if self.released else ""

    @property
    def terms(self) -> str:
        """A sentence about the licence that is known."""
        if self.known_licence in FREE:
            return f"The licence of the weights is {self.known_licence}."
        if self.released is None:
            return "The licence of the weights is not known: they are not a released file."
        name, _, of = self.known_licence.rstrip(")").partition(" (")
        reasons = {
            "upstream": f"what they were trained from is under the licence {name}",
            "code": f"their code is under the licence {name}",
            "": f"they are under the licence {name}" if name else "they name no licence",
        }
        return (
            f"The authors of the weights do not plainly allow to pass them on: {reasons[of]}. "
            f"See {self.facts.weights_url}."
        )

    def _head(self) -> str:
        """What the Hub reads."""
        free = FREE.get(self.known_licence)
        other = "other" if self.known_licence else "unknown"
        lines = [TAG, f"license: {self.licence or free or other}"]
        if self.licence is None and free is None and self.known_licence:
            name = "-".join(re.findall(r"[a-z0-9.]+", self.known_licence.lower()))
            lines.append(f"license_name: {name}")
            lines.append(f"license_link: {self.facts.weights_url}")
        if self.model.head is not None:
            lines.append("pipeline_tag: audio-classification")
        return "\n".join(("---", *lines, "tags:", *(f"- {tag}" for tag in TAGS), "---"))

    def _list_facts(self) -> list[str]:
        model, facts = self.model, self.facts
        size = sum(value.numel() for value in model.parameters())
        lines = [
            f"Network: {facts.title}, {size / 1e6:.1f} M parameters, {facts.paper_url}",
            f"Takes mono audio at {SAMPLE_RATE} Hz, in windows of {WINDOW_S} s",
            f"Gives {model.width} numbers every {FRAME_MS} ms",
        ]
        if model.sequence is not None:
            lines.append(f"Sequence model: {model.sequence.options['kind']}")
        for head, what in (("strong", "frame"), ("weak", "clip")):
            layer = getattr(model.head, f"{head}_head", None)
            if layer is not None:
                lines.append(f"`{head}`: logits of {len(layer.bias)} classes for each {what}")
        if self.released is None:
            return [*lines, "Trained by whoever publishes it: ask there for the data"]
        lines.append(f"Training: {facts.pretraining}")
        if facts.psds1_percent is not None:
            lines.append(
                f"PSDS1 on the evaluation part of AudioSet Strong: {facts.psds1_percent} %, as "
                "printed by the authors"
            )
        lines.append(f"Weights: `{facts.release_file}` of {facts.weights_url}, written anew")
        return [*lines, *facts.cautions]

    def _use(self) -> str:
        plugin, width = self.released or "checkpoint", self.model.width
        strong = getattr(self.model.head, "strong_head", None)
        lines = [
            "import torch",
            "",
            "import hear_ptsed",
            f"from hear_ptsed.plugins import {plugin} as plugin",
            "",
            f'model = hear_ptsed.load("hf:{self.repository}")',
            f"clip = torch.zeros(1, {WINDOW})  # {WINDOW_S} s at most, in [-1, 1]",
            f"model(clip).frames  # (1, {WINDOW_FRAMES}, {width})",
        ]
        if strong is not None:
            shape = f"(1, {len(strong.bias)}, {WINDOW_FRAMES})"
            lines.append(f"model(clip).strong.sigmoid()  # {shape}, classes: model.classes")
        lines += [
            "",
            f'embedder = plugin.load_model("hf:{self.repository}")  # HEAR API, any length',
            "embeddings, centres_ms = plugin.get_timestamp_embeddings(clip, embedder)",
        ]
        return "\n".join(("```python", *lines, "```"))
