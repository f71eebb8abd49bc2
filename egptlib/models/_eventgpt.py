"""EventGPT as a transformers model: CLIP tower, projector, spatio-temporal pooling, Llama.

Architecture and key names follow the published code of EventGPT (Liu et al. 2025, CVPR).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, GenerationMixin, LlamaConfig, LlamaModel, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import CausalLMOutputWithPast

from egptlib.models._checkpoint import checked_from_pretrained, checkpoint_folder, read_config
from egptlib.models._trimmed import TrimmedHead

EVENT_PLACEHOLDER = -200  # the id that stands for the event tokens in a prompt
IGNORED_LABEL = -100
PUBLISHED_TOWER = "openai/clip-vit-large-patch14-336"
# The published config of that tower; its weights are in EventGPT's own checkpoint, so nothing is fetched for it.
PUBLISHED_TOWER_CONFIG: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


class EventGPTConfig(LlamaConfig):
    """Llama's fields, those of the published `config.json`, and the tower's config.

    Attributes:
        mm_visual_tower: folder or hub id of the CLIP tower; read where `vision_config` is absent.
        event_feature_adaptor: whether a Linear(hidden, hidden) follows the projector.
        mm_use_im_start_end: whether `<ev_start>` and `<ev_end>` were added to the tokenizer.
        mm_use_im_patch_token: whether `<ev_patch>` was (absent in the file means True).
        max_prompt_length: prompts, event tokens included, are cut here (2,048 in the published code).
        draft_vocab_size: how many tokens its lm head drafts (see `TrimmedHead`); 0: all of them.
        vision_config: the tower (default: the published one); checkpoints saved by this class hold it, the
            published file does not.

    `use_event_qformer`, which the published class asks for too, changes nothing here: the function that would build it
    is not in that code and no pass of it uses the layers. Weights of such layers are refused by name as unexpected.
    """

    model_type = "EventChat_llama"
    sub_configs_defaults = {  # noqa: RUF012
        "vision_config": SubConfigSpec(config_class=CLIPVisionConfig, init_kwargs=PUBLISHED_TOWER_CONFIG)
    }

    mm_visual_tower: str | None = PUBLISHED_TOWER
    event_feature_adaptor: bool = True
    mm_use_im_start_end: bool = False
    mm_use_im_patch_token: bool = True
    max_prompt_length: int = 2048
    draft_vocab_size: int = 0
    vision_config: Any = None  # a CLIPVisionConfig once built; a dict is turned into one

    @property
    def num_patches(self) -> int:
        """Spatial tokens s of one image, CLS included (577 for the published tower)."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2 + 1


# Published names -> ours. transformers applies it backwards when saving, so what we save has the published names again.
# The older `vision_model.` level of the tower's keys is dropped by transformers' own rule for CLIPVisionModel.
register_checkpoint_conversion_mapping(
    EventGPTConfig.model_type,
    [
        WeightRenaming(r"^model\.visual_tower\.visual_tower\.", "visual_tower."),
        WeightRenaming(r"^model\.visual_projector\.", "visual_projector."),
        WeightRenaming(r"^model\.feature_adaptor\.", "feature_adaptor."),
    ],
    overwrite=True,
)


def pool_spatio_temporal(features: Tensor) -> Tensor:
    """Reduce n images of s tokens to n + s tokens.

    Args:
        features: [..., n, s, d].

    Returns:
        [..., n + s, d]: n temporal tokens (mean over s), then s spatial tokens (mean over n).
    """
    return torch.cat([features.mean(dim=-2), features.mean(dim=-3)], dim=-2)


class EventGPT(PreTrainedModel, GenerationMixin):
    """A language model that reads event images in place of one placeholder token.

    Call it as `model(input_ids=, pixel_values=)`, or with `inputs_embeds` (and any attention mask and position ids that
    transformers' Llama takes) when the embeddings are at hand. `generate` takes the same arguments and returns the
    new tokens only.
    """

    config: EventGPTConfig
    config_class = EventGPTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EventGPTConfig):
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # transformers would guess it from the class name
        tower_width, width = config.vision_config.hidden_size, config.hidden_size
        self.visual_tower = CLIPVisionModel(config.vision_config)
        self.visual_projector = nn.Sequential(nn.Linear(tower_width, width), nn.GELU(), nn.Linear(width, width))
        self.feature_adaptor = nn.Linear(width, width) if config.event_feature_adaptor else nn.Identity()
        self.model = LlamaModel(config)
        drafted = config.draft_vocab_size
        self.lm_head = (
            TrimmedHead(width, drafted, config.vocab_size)
            if drafted
            else nn.Linear(width, config.vocab_size, bias=False)
        )
        self.post_init()

    @classmethod
    def from_pretrained(cls, folder: str | Path, visual_tower: str | Path | None = None, **kwargs: Any) -> EventGPT:
        """Open a checkpoint: the published one, or one saved by `save_pretrained`.

        Args:
            folder: (or hub id) holds `config.json` and the weights (safetensors or .bin, sharded or not), those of
                the vision tower included.
            visual_tower: folder or hub id whose `config.json` describes the tower. None: `vision_config` in the
                checkpoint's config, else its subfolder `visual_tower/`, else the id in `mm_visual_tower`.
            **kwargs: for transformers' `from_pretrained`: `dtype`, `quantization_config`, `device_map` ...

        Raises:
            ValueError: the folder or a config is not what it should be, or weights are missing, unexpected or of
                another shape; the message names them.
        """
        folder = checkpoint_folder(folder)
        config = load_eventgpt_config(folder, visual_tower)
        return checked_from_pretrained(super().from_pretrained, folder, config=config, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def encode_events(self, pixel_values: Tensor) -> Tensor:
        """Event images to event tokens.

        Args:
            pixel_values: [n, 3, S, S] of one sample, or [b, n, 3, S, S].

        Returns:
            [n + s, hidden], or [b, n + s, hidden]; s tokens an image, CLS included.
        """
        if pixel_values.ndim not in (4, 5):
            raise ValueError(f"pixel_values: expected [n,3,S,S] or [b,n,3,S,S], found {list(pixel_values.shape)}")
        images = pixel_values.flatten(0, -4)  # [b*n, 3, S, S]
        weight = self.visual_tower.embeddings.patch_embedding.weight
        features = self.visual_tower(images.to(weight.device, weight.dtype)).last_hidden_state  # [b*n, s, d]
        features = self.feature_adaptor(self.visual_projector(features))
        return pool_spatio_temporal(features.unflatten(0, pixel_values.shape[:-3]))

    def embed(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, event_tokens: Tensor | None = None
    ) -> Tensor:
        """Prompt embeddings with the event tokens in place of the placeholder.

        Args:
            input_ids: int64 [b, t], one placeholder (-200) per row where there are events.
            pixel_values: [b, n, 3, S, S], or [n, 3, S, S] when b is 1.
            event_tokens: what `encode_events` gave, instead of `pixel_values`, where it is at hand already.

        Returns:
            [b, min(t - 1 + n + s, max_prompt_length), hidden].
        """
        if event_tokens is None and pixel_values is not None:
            event_tokens = self.encode_events(pixel_values)
        num_placeholders = (input_ids == EVENT_PLACEHOLDER).sum(dim=1)
        expected = 0 if event_tokens is None else 1
        if (num_placeholders != expected).any():
            raise ValueError(
                f"input_ids: expected {expected} event placeholder ({EVENT_PLACEHOLDER}) per row "
                f"with{'' if expected else 'out'} events, found {num_placeholders.tolist()}"
            )
        if event_tokens is None:
            return self.model.embed_tokens(input_ids)
        event_tokens = event_tokens[None] if event_tokens.ndim == 2 else event_tokens  # [b, n + s, hidden]
        if len(event_tokens) != len(input_ids):
            raise ValueError(f"pixel_values: expected {len(input_ids)} samples, found {len(event_tokens)}")
        text = self.model.embed_tokens(input_ids.clamp_min(0))  # [b, t, hidden]
        return self._splice(text, input_ids, event_tokens.to(text.dtype))

    def _splice(self, text: Tensor, input_ids: Tensor, events: Tensor) -> Tensor:
        """Replace the placeholder's row of text [b, t, ...] by events [b, k, ...], cut at max_prompt_length."""
        at = (input_ids == EVENT_PLACEHOLDER).int().argmax(dim=1).tolist()
        rows = [torch.cat([x[:i], e, x[i + 1 :]]) for x, e, i in zip(text, events, at, strict=True)]
        return torch.stack(rows)[:, : self.config.max_prompt_length]

    def _widen(self, per_token: Tensor, input_ids: Tensor, pixel_values: Tensor, fill: int) -> Tensor:
        """Give a mask or labels [b, t] the length of the embeddings; the event tokens get `fill`."""
        num_event_tokens = pixel_values.shape[-4] + self.config.num_patches
        return self._splice(per_token, input_ids, per_token.new_full((len(per_token), num_event_tokens), fill))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [b, T, vocab] of a prompt with events, of plain ids, or of embeddings.

        With `pixel_values`, `attention_mask` and `labels` are given per prompt token [b, t] and widened here to the
        T embeddings. `hidden_states[-1]` (with `output_hidden_states=True`) is taken after the final norm.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("EventGPT needs input_ids or inputs_embeds, found neither")
            inputs_embeds = self.embed(input_ids, pixel_values)
            if pixel_values is not None:
                if attention_mask is not None and attention_mask.ndim == 2:
                    attention_mask = self._widen(attention_mask, input_ids, pixel_values, 1)
                if labels is not None:
                    labels = self._widen(labels, input_ids, pixel_values, IGNORED_LABEL)
        elif pixel_values is not None:
            raise ValueError("pixel_values go with input_ids; inputs_embeds hold the event tokens already")
        out = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate with transformers' options; returns the new tokens only, int64 [b, n], when there are events."""
        if pixel_values is None:
            return super().generate(input_ids, **kwargs)
        if input_ids is None:
            raise ValueError("generate: pixel_values need input_ids with an event placeholder, found none")
        embeds = self.embed(input_ids, pixel_values)
        mask = kwargs.pop("attention_mask", None)
        mask = torch.ones_like(input_ids) if mask is None else mask
        mask = self._widen(mask, input_ids, pixel_values, 1)
        return super().generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)


def load_eventgpt_config(folder: str | Path, visual_tower: str | Path | None = None) -> EventGPTConfig:
    """Read a checkpoint's config and settle where its tower's config comes from (see `EventGPT.from_pretrained`)."""
    fields = read_config(folder)
    if fields.get("model_type") != EventGPTConfig.model_type:
        raise ValueError(
            f"{folder}/config.json: model_type: expected {EventGPTConfig.model_type!r}, "
            f"found {fields.get('model_type')!r}"
        )
    if visual_tower is not None or fields.get("vision_config") is None:
        tower = find_tower(folder, visual_tower or fields.get("mm_visual_tower"))
        tower_fields = PUBLISHED_TOWER_CONFIG if tower is None else read_config(tower)
        fields["vision_config"] = tower_fields.get("vision_config", tower_fields)
    return EventGPTConfig.from_dict(fields)


def find_tower(folder: str | Path, visual_tower: str | Path | None) -> Path | None:
    """The folder with the tower's config and preprocessor; None where it is the published one, known to this module.

    `visual_tower` is looked for as a folder first; then the checkpoint's own `visual_tower/`; then by name: the
    published tower needs no look-up, another id is asked of the hub.
    """
    for candidate in (visual_tower, Path(folder, "visual_tower")):
        if candidate is not None and Path(candidate, "config.json").is_file():
            return Path(candidate)
    if visual_tower is None:
        raise ValueError(f"{folder}/config.json: mm_visual_tower: expected a folder or hub id, found none")
    if Path(visual_tower).name == Path(PUBLISHED_TOWER).name:
        return None
    return checkpoint_folder(visual_tower, ["config.json", "preprocessor_config.json"])
