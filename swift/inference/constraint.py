"""Answers that must be JSON, or fit a grammar: at every token, those that could not go on to one are ruled out.

See: https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.errors import MissingPackageError, UsageError

ANY_OBJECT = {"type": "object"}
# One way to write an object: a model that may add blanks can add them for ever.
SPACING = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


class Constraint(Protocol):
    """What may come next in one answer."""

    def allow(self, logits_V: Tensor) -> Tensor:
        """The logits (V,) with -inf at tokens that may not come."""
        ...

    def accept(self, token: int) -> None:
        """Go on behind this token."""
        ...


class GrammarConstraint:
    """An answer that a grammar of llguidance describes, and that ends when it is complete.

    Args:
        tokenizer: of the model.
        stop_ids: tokens that may come once the answer is complete.
        lark: the grammar, in llguidance's Lark.
        what: the grammar, in the words of whoever asked for it.

    Raises:
        MissingPackageError: llguidance is not installed.
        UsageError: the grammar has what cannot be held to.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], lark: str, what: str = "the grammar"
    ) -> None:
        llguidance = require_llguidance()
        self.stop_ids, self.lark = [i for i in stop_ids if i is not None], lark
        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
        problem = llguidance.LLMatcher.validate_grammar(grammar)
        if problem:
            raise UsageError("USAGE-02", f"{what} cannot be held to: {problem}")
        self.matcher = llguidance.LLMatcher(_vocabulary(tokenizer), grammar)
        if self.matcher.is_error():
            raise UsageError("USAGE-02", f"{what} cannot be held to: {self.matcher.get_error()}")

    def copy(self) -> Self:
        """The same, for another answer; the grammar is not read again."""
        made = copy.copy(self)
        made.matcher = self.matcher.deep_copy()
        return made

    def allow(self, logits_V: Tensor) -> Tensor:
        """The logits (V,) with -inf at tokens that may not come.

        Raises:
            ValueError: the grammar is too complex to go on.
        """
        self._check()
        allowed_V = torch.zeros(len(logits_V), dtype=torch.bool)
        if not self.matcher.is_stopped():
            bits = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
            flat = ((bits[:, None] >> torch.arange(8)) & 1).flatten().bool()[: len(logits_V)]
            allowed_V[: len(flat)] = flat
        allowed_V[self.stop_ids] = self.matcher.is_stopped() or self.matcher.is_accepting()
        return logits_V.masked_fill(~allowed_V.to(logits_V.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Go on behind this token.

        Raises:
            ValueError: the grammar does not have it here, or is too complex.
        """
        if token not in self.stop_ids and not self.matcher.is_stopped():
            self.matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        """A matcher that failed says that it has stopped, as one that is through does."""
        if self.matcher.is_error():
            raise ValueError(f"the grammar cannot be held to: {self.matcher.get_error().splitlines()[0]}")


class JsonConstraint(GrammarConstraint):
    """An answer that fits a JSON schema, and ends when it does.

    Args:
        tokenizer: of the model.
        stop_ids: tokens that may come once the answer is complete.
        schema: None is any JSON object.

    Raises:
        MissingPackageError: llguidance is not installed.
        UsageError: the schema is none, or has what cannot be held to.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], schema: dict[str, Any] | None = None
    ) -> None:
        self.schema = schema or ANY_OBJECT
        super().__init__(tokenizer, stop_ids, f"start: %json {json.dumps(self.schema | SPACING)}\n", "the JSON schema")


def require_llguidance() -> Any:
    """The package that holds answers to grammars.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import llguidance
    except ModuleNotFoundError:
        fix = "pip install 'swift-finetune[serve]'"
        what = "answers in JSON and forced calls need llguidance"
        raise MissingPackageError("PACKAGE-01", what, fix=fix) from None
    return llguidance


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Any) -> Any:
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer)
