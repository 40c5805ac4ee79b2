"""The recipes for clusters: manifests are what they say, their commands are accepted, and no secret
stands in a manifest or among a command's arguments.
"""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sensitivity.cli.app import app
from sensitivity.core.storage_url import StorageUrl

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "docs" / "cluster"
PAGE = ROOT / "docs" / "how-to" / "many-gpus.md"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def documents(name: str) -> list[dict[str, Any]]:
    """The objects of a manifest."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


def of_kind(kind: str) -> dict[str, Any]:
    """The one object of a kind among all manifests."""
    found = [own for path in CLUSTER.glob("*.yaml") for own in documents(path.name)]
    (only,) = (own for own in found if own["kind"] == kind)
    return only


def container(kind: str) -> dict[str, Any]:
    """The one container of a kind of object."""
    (only,) = of_kind(kind)["spec"]["template"]["spec"]["containers"]
    return only


def secrets() -> dict[str, str]:
    """The example of the file that the Secret is made from."""
    lines = (CLUSTER / "sensitivity.env").read_text(encoding="utf-8").split()
    return dict(line.split("=", 1) for line in lines)


def shell_texts() -> Iterator[tuple[str, str]]:
    """Each script, and each shell block of the page, with a name."""
    for path in sorted(CLUSTER.glob("*.sh")):
        yield path.name, path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    for i, block in enumerate(blocks):
        yield f"block {i + 1}", block


def launches() -> list[list[str]]:
    """The words of each `torchrun ...` in a manifest, a script or the page."""
    job = container("Job")
    found = [[*job["command"], *job["args"]]]
    for _name, text in shell_texts():
        begun = re.findall(r"\btorchrun (.*?)(?: >|'|$)", text.replace("\\\n", " "), flags=re.M)
        found += [["torchrun", *shlex.split(words)] for words in begun]
    return found


def test_there_are_recipes_to_test() -> None:
    """One host, Slurm, Kubernetes, SSH, and a worker that joins."""
    assert len(launches()) == 5
    assert len(list(shell_texts())) > 8


@pytest.mark.parametrize(("name", "text"), list(shell_texts()), ids=lambda value: value[:12])
def test_shell_is_well_formed(name: str, text: str) -> None:
    """bash reads each script and each block."""
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize("words", launches(), ids=" ".join)
def test_torchrun_and_the_program_accept_each_launch(words: list[str]) -> None:
    """torchrun's own parser takes its part, and the command's takes the rest."""
    from torch.distributed.run import get_args_parser

    own = get_args_parser().parse_args(words[1:])
    assert (own.standalone, own.nproc_per_node, own.module) == (True, "gpu", True)
    assert own.training_script == "sensitivity"
    name, *arguments = own.training_script_args
    context = COMMANDS[name].make_context(name, list(arguments))
    assert context.params.get("budget", 400) == 400


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_objects_of_kubernetes(path: Path) -> None:
    """Each has a version, a kind and a name of its own; none holds a password or a URL."""
    found = documents(path.name)
    for own in found:
        assert own["apiVersion"] in ("v1", "apps/v1", "batch/v1")
        assert re.fullmatch(r"[a-z][a-z-]*", own["metadata"]["name"])
    assert len({own["kind"] for own in found}) == len(found)
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"(?i)(password|token|storage)\S*, value:", text)


def test_secrets_come_from_the_secret() -> None:
    """Whatever is secret is a key of the Secret, and the URL fits the database beside it."""
    known = secrets()
    for kind, names in (("Job", {"SENSITIVITY_STORAGE", "HF_TOKEN"}), ("StatefulSet", set())):
        taken = {
            env["name"]: env["valueFrom"]["secretKeyRef"]
            for env in container(kind)["env"]
            if "value" not in env
        }
        assert names <= taken.keys()
        for reference in taken.values():
            assert reference["name"] == "sensitivity"
            assert reference["key"] in known or reference.get("optional")
    url = StorageUrl.parse(known["SENSITIVITY_STORAGE"]).url
    service, given = of_kind("Service"), container("StatefulSet")["env"]
    values = {env["name"]: env.get("value") for env in given}
    assert url.password == known["POSTGRES_PASSWORD"]
    assert (url.host, url.port) == (
        service["metadata"]["name"],
        service["spec"]["ports"][0]["port"],
    )
    assert (url.username, url.database) == (values["POSTGRES_USER"], values["POSTGRES_DB"])


def test_the_objects_of_kubernetes_fit_together() -> None:
    """Services select the database's pod, and each volume that is mounted is there."""
    database, job = of_kind("StatefulSet")["spec"], of_kind("Job")["spec"]
    labels = database["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == database["selector"]["matchLabels"] == labels
    assert database["serviceName"] == of_kind("Service")["metadata"]["name"]
    pod = job["template"]["spec"]
    (volume,) = pod["volumes"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == of_kind("PersistentVolumeClaim")["metadata"]["name"]
    assert [own["name"] for own in container("Job")["volumeMounts"]] == [volume["name"]]
    (template,) = database["volumeClaimTemplates"]
    mounted = [own["name"] for own in container("StatefulSet")["volumeMounts"]]
    assert mounted == [template["metadata"]["name"]]


def test_a_lost_pod_is_made_anew() -> None:
    """Each index is a host that may fail several times; being drained is no failure. A pod has more
    time to end than a supervisor gives its child.
    """
    from sensitivity.workflows.supervisor import Limits

    job = of_kind("Job")["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] > 1
    assert job["backoffLimitPerIndex"] > 1
    assert job["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a failure policy needs
    assert pod["terminationGracePeriodSeconds"] > Limits().grace_s


def test_the_image_is_the_dockerfiles() -> None:
    """It has what speaks to PostgreSQL, and the pods mount what its caches lie in."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "/src[postgres]" in text
    folder = container("Job")["volumeMounts"][0]["mountPath"]
    assert f"XDG_CACHE_HOME={folder}/" in text
    assert f"WORKDIR {folder}" in text
    image = container("Job")["image"]
    assert f"docker build -t {image} --build-arg TORCH=cu130 ." in text
    assert f"docker build -t {image} --build-arg TORCH=cu130 ." in PAGE.read_text("utf-8")


FAKE = """#!{python}
import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open("srun.json", "w"))
"""


def test_the_slurm_script_hands_the_url_by_the_environment(tmp_path: Path) -> None:
    """It reads the URL from the user's file; no argument has it. Without the file it fails."""
    srun = tmp_path / "srun"
    srun.write_text(FAKE.format(python=sys.executable))
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def submit() -> int:
        return subprocess.run(
            ["bash", CLUSTER / "slurm.sh"],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode

    assert submit() != 0
    url = "postgresql://me:s3cret@db/studies"
    (tmp_path / ".sensitivity-storage").write_text(url + "\n")
    assert submit() == 0
    arguments, seen = json.loads((tmp_path / "srun.json").read_text())
    assert arguments[:4] == ["torchrun", "--standalone", "--nproc-per-node", "gpu"]
    assert seen["SENSITIVITY_STORAGE"] == url
    assert seen["XDG_CACHE_HOME"] == f"{tmp_path}/.cache"
    assert "s3cret" not in " ".join(arguments)


def test_exit_codes_and_limits_of_the_page_are_the_programs() -> None:
    """What the page says of restarts is what the supervisor does."""
    from sensitivity.core.supervised import REPLACE_ME, UNEXPECTED
    from sensitivity.search.attempts import DEATHS
    from sensitivity.workflows.supervisor import FINAL, Limits

    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    limits = Limits()
    assert (limits.first_wait_s, limits.longest_wait_s) == (1, 60)
    assert "after 1 s, then 2, 4 ... 60 s" in text
    assert limits.deaths == 5
    assert "it dies five times" in text
    assert f"after {limits.grace_s:g} s it is killed" in text
    assert DEATHS == 3
    assert "kills its process three times" in text
    assert f"{REPLACE_ME} and {UNEXPECTED} (an unexpected error)" in text
    assert not {REPLACE_ME, UNEXPECTED} & FINAL
    assert {0, 1, 2, 143, 129} <= FINAL
