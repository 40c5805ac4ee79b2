"""What `status` shows of one search, killed or not, and of many workers, from records that never
change.

    status_of_the_killed(console)
    status_of_many(console)
"""

from datetime import UTC, datetime, timedelta

from rich.console import Console

from sensitivity.cli.render.status import status_lines
from sensitivity.workflows.status import Member, Status, StudyStatus, Trials, Worker

NOW = datetime(2026, 11, 29, 6, 30, tzinfo=UTC)
STUDY = "flux1-dev-nvfp4-b200-1a2b3c4d"
WORKER = Worker(
    name="node-7:4711:9f0e520d",
    is_alive=True,
    alive_by="lock",
    host="node-7",
    process=4711,
    device="cuda",
    study=STUDY,
    stage="trials",
    what="trial 13",
    done=4,
    total=16,
    began=NOW - timedelta(hours=1),
    seen=NOW - timedelta(seconds=2),
    silent_s=2.0,
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


def worker_of_many(number: int) -> Worker:
    """One of eight workers a host; the second verifies, the fourth is silent."""
    host, process = f"node-{number // 8 + 1}", 4000 + 37 * number
    changes: dict[str, object] = {
        1: {"stage": "verification", "what": "", "done": 30, "total": 240},
        3: {"silent_s": 52.0},
    }.get(number, {})
    return WORKER.model_copy(
        update={
            "name": f"{host}:{process}:9f0e{number:04x}",
            "host": host,
            "process": process,
            "alive_by": "lease",
            "device_name": f"GPU {number % 8}: NVIDIA B200",
            "what": f"trial {97 + number}",
            "done": 2 * number % 16,
            "stage_began": NOW - timedelta(seconds=13 * number),
            "silent_s": float(number % 15),
            "trials": 12 + number % 3,
            **changes,
        }
    )


def many_workers(living: int) -> list[Worker]:
    """So many that live, one that died, one that was interrupted and one that gave up."""
    hows = ("", "interrupted", "the GPU no longer answers this process")
    ended = [
        worker_of_many(living + place).model_copy(
            update={"is_alive": False, "alive_by": "", "silent_s": 200.0 * (place + 1), "how": how}
        )
        for place, how in enumerate(hows)
    ]
    return [*map(worker_of_many, range(living)), *ended]


def status_of(living: int) -> Status:
    """A study on a server that so many workers are at."""
    trials = Trials(
        done=96, budget=400, stopped=12, failed=3, running=living - 1, baselines=5, an_hour=227.2
    )
    status = _status(WORKER)
    study = status.studies[0].model_copy(update={"trials": trials, "left_s": 4_820.0})
    return status.model_copy(
        update={
            "database": "postgresql+psycopg://me:***@db:5432/studies",
            "workers": tuple(many_workers(living)),
            "studies": (study,),
        }
    )


def status_of_many(console: Console) -> None:
    """`status` of eight workers, of which one verifies already, and of three that ended."""
    console.print(status_lines([status_of(8)]))


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
    status = _status(killed)
    trials = status.studies[0].trials.model_copy(update={"running": 0})
    study = status.studies[0].model_copy(update={"trials": trials})
    console.print(status_lines([status.model_copy(update={"studies": (study,)}), new]))
