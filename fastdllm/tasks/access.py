"""Can this task run here? Asked before a model is loaded or a GPU is waited for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastdllm import tasks
from fastdllm.tasks.datafiles import GATED


def check(name: str, data: str | Path | None = None, **options: Any) -> str:
    """A sentence on what was found, for `fastdllm doctor --task`.

    Raises ValueError that says what is missing and what to do: the data set, the access to a gated one, the flag
    for running code, nltk's sentence splitter.
    """
    if name == "gpqa_main_n_shot" and data is None:
        check_gate("Idavidrein/gpqa", name)
    task = tasks.get(name, **options)
    problems = task.problems(1, Path(data) if data else None)
    subtasks = len({problem.subtask for problem in problems})
    own = name in (*tasks.EMBEDDED, "two_step") and data is None
    source = "" if own else f"{data or 'data from the hub or its cache'}, "
    sentence = f"{name}: {source}{f'{subtasks} subtasks, ' if subtasks > 1 else ''}scored by {task.metric}"
    if name in ("humaneval", "mbpp"):
        from fastdllm.tasks.sandbox import without_network
        sentence += ("; programs run without network" if without_network() else
                     "; programs run WITH network: none could be taken away on this system")
    return sentence


def check_gate(repository: str, name: str) -> None:
    """Raise ValueError if a gated data set is neither in the local cache nor open to this login.

    The token comes from HF_TOKEN or the hub's own login file; it is looked for, never shown.
    """
    from huggingface_hub import get_token, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound, GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
    way = GATED[repository]
    try:
        if any(repo.repo_id == repository and repo.repo_type == "dataset" for repo in scan_cache_dir().repos):
            return
    except CacheNotFound:
        pass
    if get_token() is None:
        raise ValueError(f"task={name}: {repository} is gated and there is no login here; allowed: {way}, "
                         "or give a local file as 'data:'")
    from huggingface_hub import HfApi
    try:
        HfApi().auth_check(repository, repo_type="dataset")
    except GatedRepoError as error:
        raise ValueError(f"task={name}: this login may not read {repository}; allowed: {way}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ValueError(f"task={name}: {repository} is not in the local cache and the hub can't be asked{offline} "
                         f"({type(error).__name__}); allowed: fetch it on a machine with network, or give a local file "
                         "as 'data:'") from error
