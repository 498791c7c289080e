"""The hooks of PrefixModelForCausalLM: the layout of keys and values, and masks with the prefix before them.

Shapes: B batch, N prefix tokens, L layers, H heads of keys and values, D size of a head, T queries, S keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def split_layers(past_BNLHD: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Key and value of each layer, [B, H, N, D], from [B, N, 2·L, H, D] with all keys before all values.

    This is what transformers' caches hold for every model, so PaddleNLP's hooks for single models are names for it.
    """
    keys, values = past_BNLHD.permute(2, 0, 3, 1, 4).chunk(2)
    return list(zip(keys, values, strict=True))


bloom_postprocess_past_key_value = split_layers
chatglm_postprocess_past_key_value = split_layers
llama_postprocess_past_key_value = split_layers
qwen_postprocess_past_key_value = split_layers


def prefix_attention_mask(input_ids_shape: Sequence[int], num_prefix_tokens: int, attention_mask: Tensor) -> Tensor:
    """The mask with the prefix before its keys, which everybody sees.

    Args:
        input_ids_shape: (B, T); not needed here, but PaddleNLP's hooks get it.
        num_prefix_tokens: N.
        attention_mask: [B, S], or [B, T, S] or [B, heads, T, S]. Floats of three or four dimensions are added to the
            scores: 0 shows, -inf hides. All others show where they are not 0.

    Returns:
        [B, N + S] in the dtype it came in; from three and four dimensions [B, heads or 1, T, N + S], to be added.

    Raises:
        ValueError: it has another number of dimensions.
    """
    if attention_mask.ndim not in (2, 3, 4):
        raise ValueError(f"attention_mask has the shape {tuple(attention_mask.shape)}: it needs 2, 3 or 4 dimensions")
    if attention_mask.ndim == 2:
        return torch.cat([attention_mask.new_ones(len(attention_mask), num_prefix_tokens), attention_mask], -1)
    added = attention_mask if attention_mask.is_floating_point() else _to_add(attention_mask)
    added = added if added.ndim == 4 else added.unsqueeze(1)
    return torch.cat([added.new_zeros(*added.shape[:-1], num_prefix_tokens), added], -1)


chatglm_pad_attention_mask = prefix_attention_mask


def _to_add(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, float("-inf"))
