"""How a model is put to a task: the words of commands, recipes, records, sweeps and pages."""

AS_TRAINED = "as-trained"
PROTOCOLS = {
    "hear": "heareval's own networks on frozen embeddings, with its own grid",
    "linear": "a linear layer on frozen embeddings",
    "finetuned": "the whole network, with layer-wise learning rates",
    "weak-linear": "an attention head on frozen embeddings; strong and weak labels",
    "weak-finetuned": "the whole network; strong and weak labels",
    "mean-teacher": "the DCASE 2023 task 4 baseline: a CRNN beside frozen embeddings; strong, weak "
    "and no labels",
    AS_TRAINED: "the model's own heads, as `python -m training evaluate` scores them",
}
