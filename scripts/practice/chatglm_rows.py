"""Rows of an advertisement data set as ChatGLM reads them: [gMASK] sop question answer end, loss on the answer.

python scripts/practice/chatglm_rows.py [DIRECTORY]
"""

from __future__ import annotations

from assets import place
from datasets import load_dataset
from transformers import AutoTokenizer

from swift.llm import DataCollatorForChatGLM, show_random_elements

seed = 8
max_input_length = 512
max_output_length = 1536
prompt_text = ""
eval_data_path = None


def tokenize_func(example, tokenizer, ignore_label_id=-100):
    question = prompt_text + example["content"]
    if example.get("input", None) and example["input"].strip():
        question += f"\n{example['input']}"
    q_ids = tokenizer.encode(text=question, add_special_tokens=False)[: max_input_length - 2]
    a_ids = tokenizer.encode(text=example["summary"], add_special_tokens=False)[: max_output_length - 1]
    input_ids = tokenizer.build_inputs_with_special_tokens(q_ids, a_ids)
    question_length = len(q_ids) + 2  # [gMASK] and sop
    labels = [ignore_label_id] * question_length + input_ids[question_length:]
    return {"input_ids": input_ids, "labels": labels}


def rows(directory):
    """The tokenizer, the rows in the order of the seed, and what makes batches of them."""
    tokenizer = AutoTokenizer.from_pretrained(directory / "chatglm", trust_remote_code=True)
    dataset = load_dataset("json", data_files=str(directory / "adgen.jsonl"))
    print(dataset)
    show_random_elements(dataset["train"], num_examples=3)
    tokenized_dataset = dataset["train"].map(
        lambda example: tokenize_func(example, tokenizer),
        batched=False,
        remove_columns=dataset["train"].column_names,
    )
    tokenized_dataset = tokenized_dataset.shuffle(seed=seed).flatten_indices()
    return tokenizer, tokenized_dataset, DataCollatorForChatGLM(pad_token_id=tokenizer.pad_token_id)


if __name__ == "__main__":
    tokenizer, tokenized_dataset, data_collator = rows(place())
    show_random_elements(tokenized_dataset, num_examples=1)
    row = tokenized_dataset[0]
    assert len(row["input_ids"]) == len(row["labels"])
    assert row["input_ids"][-1] == row["labels"][-1] == tokenizer.eos_token_id
    assert row["labels"].index(next(label for label in row["labels"] if label != -100)) > 2
    assert row == rows(place())[1][0]  # the same order every time
    batch = data_collator([{"input_ids": [4, 5], "labels": [40, 50]}, {"input_ids": [1, 2, 3], "labels": [10, 20, 30]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, tokenizer.pad_token_id]]
    assert batch["labels"].tolist() == [[10, 20, 30], [40, 50, -100]]
    print(tokenizer.decode(row["input_ids"]))
