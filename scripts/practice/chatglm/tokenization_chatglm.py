"""A tokenizer that begins a text as ChatGLM's does: [gMASK], sop."""

from transformers import PreTrainedTokenizerFast


class ChatGLMTokenizer(PreTrainedTokenizerFast):
    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        prefix = self.convert_tokens_to_ids(["[gMASK]", "sop"])
        return prefix + token_ids_0 + ([] if token_ids_1 is None else [*token_ids_1, self.eos_token_id])
