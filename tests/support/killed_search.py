"""A process that searches and kills itself when the pictures of a trial would be generated.

python killed_search.py STUDY DATABASE REFERENCES BUDGET TRIAL
"""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.media import Media
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest


def kill_in_trial(number: int) -> None:
    """Kill this process when the pictures of a trial would be generated, counted from 1."""
    plain, calls = Evaluator.generate, itertools.count(1)

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, formats, split, **more)

    Evaluator.generate = generate


if __name__ == "__main__":
    study, database, references, budget, trial = sys.argv[1:]
    torch.set_num_threads(1)
    kill_in_trial(int(trial))
    find_recipe(
        load_spec(Path(study)),
        SearchRequest(budget=int(budget), storage=Path(database), cache_folder=Path(references)),
    )
