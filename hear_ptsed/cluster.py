"""Ray: a cluster that runs elsewhere, or one that is started here."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from hear_ptsed.errors import require_package


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The package `ray`, connected to a cluster; left in the end, unless it was connected before.

    Args:
        address: of the cluster; "local" starts one here.
    """
    ray = require_package("ray", "ray")
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, **local)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def one_share(ray: Any) -> tuple[dict[str, int], int]:
    """What a job asks for, a GPU or, where the cluster has none, a CPU; how many there are."""
    resources = ray.cluster_resources()
    if gpus := int(resources.get("GPU", 0)):
        return {"num_gpus": 1}, gpus
    return {"num_cpus": 1}, max(1, int(resources.get("CPU", 1)))
