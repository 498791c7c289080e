"""A ChatML template of the least that inference needs, to test it alone."""

from __future__ import annotations


class FakeTemplate:
    stop_words: tuple[str, ...] = ()
    lead = ""
    pause = ""

    def __init__(self, tokenizer, max_length=None):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.end_ids = self.stop_ids = [tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def encode(self, row):
        messages, ids = row.get("messages") or self._messages(row), []
        for message in messages:
            ids += self._ids(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n")
        ids += self._ids("<|im_start|>assistant\n")
        labels = [-100] * len(ids)
        if row.get("response") is not None:
            said = [*self._ids(row["response"]), *self.end_ids]
            ids, labels = ids + said, labels + said
        if self.max_length and len(ids) > self.max_length:
            return {}, {}
        return {"input_ids": ids, "labels": labels if row.get("response") is not None else None}, {}

    def _messages(self, row):
        messages = [] if row["system"] is None else [{"role": "system", "content": row["system"]}]
        for asked, said in row["history"]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        return [*messages, {"role": "user", "content": row["query"]}]

    def _ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids
