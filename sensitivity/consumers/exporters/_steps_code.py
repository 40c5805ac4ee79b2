"""How does exported Python run a recipe's step policy? A constant and one class, which need torch
alone.

    STEP_POLICY = {"first_steps": 2, "last_steps": 1, "mode": "a16"}

    policy = StepPolicy(pipeline.transformer)
    with policy:
        pipeline(prompt, num_inference_steps=28, callback_on_step_end=policy)

Inside the context the quantized Linears compute in their format, and at edge steps in bf16: `a16`
with their quantized weight, dequantized at each call; `bf16` with the weight that they had, which
the class keeps from before `quantize_`. diffusers calls it at the end of each step, and it sets the
precision of the next one. Under `torch.compile` a Linear is compiled twice, once for each.

Nothing here runs. A text is proved by the constant, and by the code behind it letter by letter.
"""

from sensitivity.consumers.exporters._python import read_constants
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.recipes.recipe import Recipe

CONSTANT = "STEP_POLICY"

STEPS_CODE = '''

class StepPolicy:
    """Runs the first and the last denoising steps of a pipeline as STEP_POLICY says.

        policy = StepPolicy(pipeline.transformer){when}
        with policy:
            pipeline(prompt, callback_on_step_end=policy)
    """

    def __init__(self, *denoisers):
        modules = (module for denoiser in denoisers for module in denoiser.modules())
        self.linears = [module for module in modules if isinstance(module, torch.nn.Linear)]
        self.kept = [None for _ in self.linears]
        self.at_edge = False
        if STEP_POLICY["mode"] == "bf16":
            if any(map(_is_quantized, self.linears)):
                raise RuntimeError("found quantized weights; make StepPolicy before quantize_")
            self.kept = [linear.weight for linear in self.linears]

    def __enter__(self):
        for linear, kept in zip(self.linears, self.kept):
            if _is_quantized(linear):
                linear.forward = self._forward_of(linear, kept, linear.forward)
        self.at_edge = STEP_POLICY["first_steps"] > 0
        return self

    def __exit__(self, *error):
        for linear in self.linears:
            linear.__dict__.pop("forward", None)

    def __call__(self, pipeline, step, timestep, tensors):
        """The callback_on_step_end of diffusers: sets the precision of the next step."""
        following, steps = step + 1, pipeline.num_timesteps
        following = 0 if following == steps else following
        first, last = STEP_POLICY["first_steps"], STEP_POLICY["last_steps"]
        self.at_edge = not first <= following < steps - last
        return tensors

    def _forward_of(self, linear, kept, quantized):
        def forward(x):
            if not self.at_edge:
                return quantized(x)
            weight = linear.weight.dequantize().to(x.dtype) if kept is None else kept
            return torch.nn.functional.linear(x, weight, linear.bias)

        return forward


def _is_quantized(linear):
    return type(linear.weight.data) is not torch.Tensor
'''
WHEN = {EdgeMode.A16: "", EdgeMode.BF16: "  # before quantize_"}


def steps_constant(recipe: Recipe) -> str:
    """The line of `STEP_POLICY`; "" for a recipe without a policy."""
    policy = recipe.assignment.policy
    if policy.is_plain:
        return ""
    value = f'"first_steps": {policy.first_steps}, "last_steps": {policy.last_steps}'
    return f'{CONSTANT} = {{{value}, "mode": "{policy.mode}"}}\n'


def steps_code(recipe: Recipe) -> str:
    """The class and its helper; "" for a recipe without a policy."""
    policy = recipe.assignment.policy
    return "" if policy.is_plain else STEPS_CODE.format(when=WHEN[policy.mode])


def steps_in(text: str, recipe: Recipe) -> StepPolicy:
    """The policy that an exported text runs.

    Raises:
        RecipeError: the constant is missing, or the code behind it is another one.
    """
    if not (code := steps_code(recipe)):
        return StepPolicy()
    (value,) = read_constants(text, CONSTANT, code=code)
    return StepPolicy(**(value | {"mode": EdgeMode(value["mode"])}))
