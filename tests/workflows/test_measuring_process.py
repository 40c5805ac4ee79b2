"""A job that kills its process costs that job only."""

import os
import signal
import time
from typing import Any

import pytest

from sensitivity.latency.timing.device_jobs import Job, Result
from sensitivity.workflows.measuring_process import MeasuringProcess, ProcessLost


class Fragile:
    """Does what the job's name says."""

    device = "cpu"

    def run(self, job: Job) -> Result:
        if job.name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.name == "exit":
            os._exit(3)
        if job.name == "hang":
            time.sleep(60)
        if job.name == "fail":
            raise ValueError("no such kernel")
        return {"notes": [str(os.getpid())]}


def do(process: MeasuringProcess, name: str, patience_s: float = 20.0) -> Any:
    return process.run(Job(kind="limits", name=name), patience_s=patience_s)


def test_a_job_that_kills_its_process_costs_that_job_only() -> None:
    """A crash, an exit and a hang are told apart, and the next job has a new process; an error is a
    result, and the process goes on.
    """
    process = MeasuringProcess(Fragile(), start_method="fork")
    try:
        first = do(process, "work")["notes"]
        assert do(process, "fail") == {"failed": ["ValueError: no such kernel"]}
        assert do(process, "work")["notes"] == first
        with pytest.raises(ProcessLost, match=r"the process died \(SIGKILL\)"):
            do(process, "die")
        assert do(process, "work")["notes"] != first
        with pytest.raises(ProcessLost, match="ended with exit code 3"):
            do(process, "exit")
        with pytest.raises(ProcessLost, match="did not end in time"):
            do(process, "hang", patience_s=0.2)
        assert do(process, "work")
    finally:
        process.stop(wait_s=0)
