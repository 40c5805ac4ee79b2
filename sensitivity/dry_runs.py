"""What does a dry run change in a study? `with_random_weights` and `with_net`: what `--weights random` and `--net` mean.

    spec = with_net(with_random_weights(resolve_spec("flux1-dev")), "tiny")

The study's name says that its weights are random, so that databases, recipes, tables and file names do. This module imports no torch.
"""

from sensitivity.errors import UserError
from sensitivity.spec import StudySpec, studies_folder

NETS = ("alex", "vgg", "squeeze", "tiny")


def with_random_weights(spec: StudySpec, seed: int = 0) -> StudySpec:
    """The study with weights that are drawn from `seed`, not read; one that has such weights is given back as it is."""
    if spec.model.random_seed is not None:
        return spec
    model = spec.model.model_copy(update={"weights": "random", "random_seed": seed})
    return spec.model_copy(update={"name": f"{spec.name}-random-weights", "model": model})


def with_net(spec: StudySpec, net: str) -> StudySpec:
    """The study with another LPIPS net; `tiny` is the trunk that comes with the package. Raises UserError for an unknown one."""
    if net not in NETS:
        raise UserError(f"--net is {net!r}; allowed are {', '.join(NETS)}: choose one of them")
    trunk = studies_folder() / "tiny-flux" / "perceptual" / "trunk.safetensors" if net == "tiny" else None
    return spec.model_copy(update={"fidelity": spec.fidelity.model_copy(update={"net": net, "weights": trunk})})


def random_notice(spec: StudySpec) -> str:
    """What has to be said of a study whose weights are drawn."""
    said = "its pictures, LPIPS, layer sensitivities and recipe say nothing about the model"
    return f"{spec.name} has RANDOM weights (seed {spec.model.random_seed}), nothing was trained: {said}"
