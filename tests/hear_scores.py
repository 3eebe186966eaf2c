"""What heareval left in an embedding task folder."""

import json
from pathlib import Path
from typing import Any


def scores(folder: Path) -> dict[str, Any]:
    """`metric`, `score` and, over folds, `std` (else None)."""
    results = json.loads((folder / "test.predicted-scores.json").read_text())
    metric = json.loads((folder / "task_metadata.json").read_text())["evaluation"][0]
    if "aggregated_scores" in results:
        folds = results["aggregated_scores"]
        return {"metric": metric, "score": folds["test_score_mean"], "std": folds["test_score_std"]}
    return {"metric": metric, "score": results["test"]["test_score"], "std": None}
