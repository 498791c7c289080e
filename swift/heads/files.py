"""What a checkpoint says about its head: `head.json`, and for vectors the files of sentence-transformers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from swift import storage
from swift.errors import DataError
from swift.heads.kinds import Classifier, Embedding, Kind, Reranker, Reward
from swift.models.files import read_json

FILE = "head.json"
LIBRARY = "sentence_transformers.models"
MODES = {"lasttoken": "pooling_mode_lasttoken", "mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}


@dataclass(frozen=True)
class Head:
    """A head, as its checkpoint tells it.

    Attributes:
        task_type: seq_cls, embedding, reranker or reward.
        num_labels: how many numbers the head gives; 0 for vectors.
        problem_type: of seq_cls, as transformers calls it.
        labels: the names of labels, where they have names.
        pooling: of embedding.
        query_prefix: what stands before a query.
        document_prefix: what stands before a document.
    """

    task_type: str
    num_labels: int = 1
    problem_type: str | None = None
    labels: list[str] = field(default_factory=list)
    pooling: str = "lasttoken"
    query_prefix: str = ""
    document_prefix: str = ""

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The head of a checkpoint or model, None where it writes text.

        Raises:
            DataError: its file cannot be read.
        """
        path = directory / FILE
        if path.is_file():
            try:
                said = json.loads(path.read_text(encoding="utf-8"))
                return cls(**{f.name: said[f.name] for f in fields(cls) if f.name in said})
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise DataError("CKPT-01", f"{path} cannot be read: {error}") from None
        return cls._of_config(directory)

    @classmethod
    def _of_config(cls, directory: Path) -> Self | None:
        """The head that a model's own config tells of: that of transformers' sequence classification."""
        config = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
        if not any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ()):
            return None
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        labels = [str(names[key]) for key in sorted(names, key=int)]
        named = [] if all(name == f"LABEL_{k}" for k, name in enumerate(labels)) else labels
        return cls("seq_cls" if len(labels) > 1 else "reward", len(labels), config.get("problem_type"), named)

    def write(self, directory: Path) -> None:
        """Write `head.json`."""
        storage.write_json(directory / FILE, asdict(self))

    def kind(self) -> Kind:
        """What reads rows for this head."""
        if self.task_type == "embedding":
            return Embedding(pooling=self.pooling, query=self.query_prefix, document=self.document_prefix)
        if self.task_type == "reranker":
            return Reranker(query=self.query_prefix, document=self.document_prefix)
        if self.task_type == "reward":
            return Reward()
        return Classifier(self.num_labels, self.problem_type or default_problem(self.num_labels), list(self.labels))


def default_problem(num_labels: int) -> str:
    """What kind of problem it is where nobody says, as transformers has it."""
    return "regression" if num_labels == 1 else "single_label_classification"


def write_recipe(head: Head, directory: Path, size: int, max_length: int | None) -> None:
    """Write what sentence-transformers reads: how vectors of `size` numbers come from the model in this directory."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules: list[dict[str, Any]] = [
        {"idx": k, "name": str(k), "path": path, "type": f"{LIBRARY}.{name}"} for k, (path, name) in enumerate(steps)
    ]
    storage.write_json(directory / "modules.json", modules)
    modes = {name: key == head.pooling for key, name in MODES.items()}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    storage.write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **modes})
    storage.write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    prompts = {"query": head.query_prefix, "document": head.document_prefix}
    storage.write_json(
        directory / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None}
    )
