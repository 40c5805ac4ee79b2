"""What `status` shows after a search was killed, from records that never change.

status_of_the_killed(console)
"""

from datetime import UTC, datetime, timedelta

from rich.console import Console

from sensitivity.cli.render.status import status_lines
from sensitivity.workflows.status import Member, Status, StudyStatus, Trials, Worker

NOW = datetime(2026, 11, 29, 6, 30, tzinfo=UTC)
STUDY = "flux1-dev-nvfp4-b200-1a2b3c4d"
WORKER = Worker(
    name="node-7:4711",
    is_alive=True,
    device="cuda",
    study=STUDY,
    stage="trials",
    what="trial 13",
    done=4,
    total=16,
    began=NOW - timedelta(hours=1),
    seen=NOW - timedelta(seconds=2),
    left_s=5_530.0,
    command="sensitivity search --model flux1-dev --budget 50",
)
FRONT = (
    Member(name="all nvfp4", seconds=1.4321, speedup=1.6602, typical=0.2314),
    Member(name="trial 9", seconds=1.5012, speedup=1.5838, typical=0.1102),
    Member(name="black-forest-labs' own list", seconds=1.71, speedup=1.3904, typical=0.0521),
    Member(name="trial 11", seconds=2.0123, speedup=1.1815, typical=0.00038),
    Member(name="none", seconds=2.3776, speedup=1.0, typical=0.0),
)


def _status(worker: Worker) -> Status:
    study = StudyStatus(
        name=STUDY,
        model="flux1-dev",
        settings={},
        trials=Trials(
            done=12, budget=50, stopped=3, failed=1, running=1, baselines=5, an_hour=28.4
        ),
        front=FRONT,
        updated=NOW - timedelta(minutes=1),
    )
    return Status(
        database="sensitivity-runs/flux1-dev.db",
        now=NOW,
        writer=None,
        workers=(worker,),
        studies=(study,),
    )


def status_of_the_killed(console: Console) -> None:
    """`status` after the process was killed, and of a database that has no study yet."""
    killed = WORKER.model_copy(update={"is_alive": False, "left_s": None})
    new = Status(database="sensitivity-runs/mine.db", now=NOW, writer=None, workers=(), studies=())
    console.print(status_lines([_status(killed), new]))
