"""The whole chain, as a user starts it: torchrun, supervisors, workers, one of which is killed.

    SENSITIVITY_TORCHRUN=1 uv run pytest tests/workflows/test_torchrun.py

It takes a minute or two a database on 2 CPU cores, so it is skipped unless it is asked for.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import create_engine, text

pytestmark = pytest.mark.skipif(
    not os.environ.get("SENSITIVITY_TORCHRUN"), reason="takes minutes: set SENSITIVITY_TORCHRUN=1"
)
BUDGET, BASELINES = 12, 4
PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("ball", "box", "cone")]


def children_of(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(path.parent.name))
    return sorted(found)


def wait_for(words: str, log: Path) -> None:
    """Wait until a log has these words."""
    until = time.monotonic() + 240
    while words not in log.read_text():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["file", "server"])
def test_two_ranks_search_one_study_though_a_worker_is_killed(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each trial is there once, the study ends once, and no password is seen anywhere."""
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, "a green ball", "a green box"]))
    url = request.getfixturevalue("postgres_url") if where == "server" else ""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("SENSITIVITY_STORAGE", None)
    if url:
        environment["SENSITIVITY_STORAGE"] = url
    log = tmp_path / "log"
    with log.open("w") as file:
        launched = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", "-m", "sensitivity", "search", "--model", "tiny-flux"),
                *("--budget", str(BUDGET), "--prompts", "prompts.txt", "--steps", "2"),
                "--no-calibrate",
            ],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=file,
        )
        try:
            wait_for(f"trial 2/{BUDGET}", log)
            (child,) = children_of(children_of(launched.pid)[1])
            arguments = Path(f"/proc/{child}/cmdline").read_bytes()
            os.kill(child, signal.SIGKILL)
            assert launched.wait(300) == 0, log.read_text()[-3000:]
        finally:
            launched.kill()
    said = log.read_text()
    assert "[rank 1] its process died by SIGKILL; it is started again in 1 s" in said
    assert said.count("recipe: ") == 1
    assert len(list(tmp_path.glob("sensitivity-runs/*.json"))) == 1
    database = url or f"sqlite:///{tmp_path}/sensitivity-runs/tiny-flux.db"
    with create_engine(database).connect() as connection:
        states = connection.execute(text("SELECT state, COUNT(*) FROM trials GROUP BY state"))
        assert [tuple(row) for row in states] == [("COMPLETE", BUDGET + BASELINES)]
        assert connection.execute(text("SELECT COUNT(*) FROM sensitivity_claims")).scalar() == 0
    if url:
        for secret in {urlsplit(url).password or "", unquote(urlsplit(url).password or "")}:
            assert secret not in said
            assert secret.encode() not in arguments
            results = tmp_path.glob("sensitivity-runs/*.json")
            assert not any(secret in path.read_text() for path in results)
