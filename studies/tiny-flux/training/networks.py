"""The untrained parts of `tiny-flux`: tokenizers, text encoders, autoencoder, denoiser, and the two
networks that read scenes.

The denoiser is `FluxTransformer2DModel` at 1/16 of FLUX.1-dev (hidden 192 = 3 heads x 64, joint
256, pooled 48, 256 image and 32 text tokens; 3 double and 6 single blocks instead of 19 and 38).
Everything is a stock diffusers or transformers class, so that the saved folder needs nothing of
ours.
"""

import json

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from scenes import COLOURS, GROUND_TEXTURES, GROUNDS, PLACES, SHAPES, SIZES, TEXTURES, Scenes, words
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torchvision.models import alexnet
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

TEXT_TOKENS = 32
LATENT_CHANNELS = 4
LATENT_SIZE = 32  # 128 pixels / 4; packed 2 x 2 into 16 x 16 = 256 image tokens


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair tokenizer in which every word of a caption is one token; other words are spelled in
    letters.
    """
    trainer_model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer_model.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz,."),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trainer_model.train_from_iterator([" ".join(words())] * 4, trainer)
    state = json.loads(trainer_model.to_str())["model"]
    pieces = sorted(
        set(state["vocab"])
        | {c + end for c in "abcdefghijklmnopqrstuvwxyz,." for end in ("", "</w>")}
    )
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(m) for m in state["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_TOKENS)


def t5_tokenizer() -> T5TokenizerFast:
    """Unigram tokenizer in which every word of a caption is one piece; other words are spelled in
    letters.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -4.0) for word in words() if word != ","] + [
        (c, -10.0) for c in "abcdefghijklmnopqrstuvwxyz.,'-"
    ]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def untrained_pipeline() -> FluxPipeline:
    """The whole pipeline with fresh weights from torch's current seed."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip),
            hidden_size=48,
            intermediate_size=192,
            projection_dim=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=TEXT_TOKENS,
            bos_token_id=clip.bos_token_id,
            eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
        )
    )
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5),
            d_model=256,
            d_kv=64,
            d_ff=512,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=64,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=256,
        pooled_projection_dim=48,
        guidance_embeds=True,
        axes_dims_rope=(8, 28, 28),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return FluxPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip,
        text_encoder_2=text_encoder_2,
        tokenizer_2=t5,
        transformer=transformer,
    )


# What a reading network says about a picture: for each place its shape, colour, size and texture
# (last option: nothing there), then the ground.
HEADS = {
    "shape": (len(PLACES), len(SHAPES) + 1),
    "colour": (len(PLACES), len(COLOURS) + 1),
    "size": (len(PLACES), len(SIZES) + 1),
    "texture": (len(PLACES), len(TEXTURES) + 1),
    "ground": (1, len(GROUNDS)),
    "ground_texture": (1, len(GROUND_TEXTURES)),
}
OUTPUTS = sum(places * options for places, options in HEADS.values())


def split_heads(logits: Tensor) -> dict[str, Tensor]:
    """(B, OUTPUTS) -> {attribute: (B, places, options)}."""
    parts = logits.split([p * o for p, o in HEADS.values()], dim=1)
    return {name: part.unflatten(1, HEADS[name]) for name, part in zip(HEADS, parts, strict=True)}


def attribute_targets(scenes: Scenes) -> dict[str, Tensor]:
    """{attribute:

    (B, places)} indices that a perfect reader gives; an empty place has the last option.
    """
    b, present = len(scenes), scenes.present()
    rows = torch.arange(b, device=present.device)[:, None].expand_as(present)
    targets = {"ground": scenes.ground[:, None], "ground_texture": scenes.ground_texture[:, None]}
    for name in ("shape", "colour", "size", "texture"):
        grid = torch.full((b, len(PLACES)), HEADS[name][1] - 1, device=present.device)
        grid[rows[present], scenes.place[present]] = getattr(scenes, name)[present]
        targets[name] = grid
    return targets


class Trunk(nn.Module):
    """AlexNet's convolutions with a head on top; only `features` is kept, as the trunk of LPIPS
    `net = "tiny"`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = alexnet(weights=None).features
        self.head = nn.Linear(256 * 3 * 3, OUTPUTS)
        # the input scaling of lpips.ScalingLayer, so that the trunk sees in training what it sees
        # under LPIPS
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (B, 3, 128, 128) in [-1, 1]; returns (B, OUTPUTS) logits."""
        return self.head(self.features((pictures - self.shift) / self.scale).flatten(1))


class Reader(nn.Module):
    """The independent judge of the gates: another architecture, other seeds, other pictures than
    the trunk.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 96, 96):
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            layers += [
                nn.Conv2d(width, width, 3, padding=1, groups=width // 32),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            channels = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(96 * 16, OUTPUTS)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (B, 3, 128, 128) in [-1, 1]; returns (B, OUTPUTS) logits."""
        return self.head(self.body(pictures).flatten(1))
