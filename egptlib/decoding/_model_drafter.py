"""A model as the drafter: where it chooses its tokens, in the target's ids or, of another vocabulary, through text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Stop, certain
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._sampling import Sampler, pick
from egptlib.decoding._trees import TreeShape, grow
from egptlib.models import Model, State, Vocabulary, check_trees, common_prefix, ids_on, likelihoods


class Chain:
    """A draft on its way: it chooses tokens, notes what they came from, and says whether to go on.

    On a GPU the host waits once, when the draft is whole, unless somebody has to know a token before: what was drafted
    behind an end token is left out then, which is cheaper than asking after each token. On a CPU, where asking costs
    nothing, the draft ends there.

    Args:
        count: tokens at most.
        ends: tokens behind which nothing is drafted.
        stop: as in `Drafter.propose`; the host is told each token with its confidence, in one transfer.
        known: whether each token has to be known as soon as it is chosen.

    Attributes:
        tokens: those that the host knows.
        last: the token chosen last, int64 [1], where its logits are.
    """

    def __init__(
        self, count: int, sampler: Sampler, ends: frozenset[int], stop: Stop | None = None, known: bool = False
    ):
        self.count, self.sampler, self.ends, self.stop = count, sampler, ends, stop
        self.known = known or stop is not None
        self.tokens, self.confidence = list[int](), list[float]()
        self.last = torch.empty(0, dtype=torch.long)
        self._ids, self._logits, self._laws = list[Tensor](), list[Tensor](), list[Tensor]()
        self._numbers: list[float] = []

    def choose(self, logits: Tensor) -> bool:
        """Choose the next tokens, from logits [V] or [n, V] of the target's vocabulary; whether the draft goes on."""
        logits = logits.reshape(-1, logits.shape[-1])
        if self.sampler.greedy:
            return self.add(logits.argmax(dim=-1), logits)
        laws = self.sampler.probabilities(logits)
        if not self._numbers:  # all at once: how many are drawn must not depend on where the draft ends
            self._numbers = self.sampler.uniform(self.count)
        numbers = self._numbers[sum(map(len, self._ids)) :]
        ids = [pick(law, number) for law, number in zip(laws, numbers, strict=False)]
        return self.add(torch.cat(ids), logits, laws)

    def add(self, ids: Tensor, logits: Tensor, laws: Tensor | None = None) -> bool:
        """Add tokens [n] that were chosen from logits [n, V]; whether the draft goes on behind them.

        Args:
            laws: what they were drawn from, [n, V]; None: chosen with certainty.
        """
        self._ids.append(ids)
        self._logits.append(logits)
        if laws is not None:
            self._laws.append(laws)
        self.last = ids[-1:]
        if self.known or logits.device.type == "cpu":
            return self._tell(ids, logits)
        return sum(map(len, self._ids)) < self.count

    def _tell(self, ids: Tensor, logits: Tensor) -> bool:
        """Tell the host tokens and their confidences, up to where the draft ends; whether it goes on behind them."""
        told = torch.stack([ids.double(), likelihoods(logits, ids).double()]).tolist()  # one transfer
        for token, sure in zip(*told, strict=True):
            self.tokens.append(int(token))
            self.confidence.append(sure)
            full = len(self.tokens) == self.count or self.tokens[-1] in self.ends
            if full or (self.stop is not None and self.stop(sure)):
                return False
        return True

    def draft(self) -> Draft:
        """The draft as it stands."""
        if not self._ids:
            return Draft()
        ids, logits = torch.cat(self._ids), torch.cat(self._logits)
        if not self.tokens:
            self._tell(ids, logits)
        laws = torch.cat(self._laws) if self._laws else None
        count = len(self.tokens)
        return Draft(self.tokens, self.confidence, None if laws is None else laws[:count], logits[:count])


class ModelDrafter:
    """Drafts with a model, token by token, in the target's ids.

    Args:
        model: the drafter.
        vocabulary: what the target's ids mean to it (see `shared_vocabulary`, `common_vocabulary`).

    Attributes:
        state: where the model stands.
        read: the answer tokens (its own ids) in its cache, as far as the host knows them.
        rows: last hidden states [H]; row t stands before token t in its cache, so there is one more than tokens.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, name: str | None = None):
        self.model, self.vocabulary, self.name = model, vocabulary, name or model.name
        self.device = model.device
        self.state: State | None = None
        self.read: list[int] = []
        self.rows: list[Tensor] = []
        self._kept: PromptReader | None = None
        self._nodes: list[tuple[int, Tensor]] = []  # of the tree in its cache: token and last hidden state

    def keep(self, scene: Any) -> None:
        """From now on what prompts about this scene have in common is read once; None ends that."""
        if self._kept is None or self._kept.scene is not scene:
            self._kept = None if scene is None else PromptReader(self.model, scene, "drafter")

    def reader(self, scene: Any) -> PromptReader:
        """Reads prompts about a scene: the one kept, if it is about this scene, or a new one."""
        kept = self._kept
        return kept if kept is not None and kept.scene is scene else PromptReader(self.model, scene, "drafter")

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.begin(self.reader(scene).read(question, recorder))

    def begin(self, state: State) -> None:
        """Draft from a prompt that was read already."""
        self.state, self.read, self.rows, self._nodes = state, [], [state.hidden[0, -1]], []

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        chain = Chain(count, sampler, self.vocabulary.end_token_ids, stop)
        if count > 0:
            self.catch_up(self.vocabulary.to_drafter(answer))
            while chain.choose(self.next_logits()):
                self.follow(chain.last)
        return self.told(chain.draft())

    @torch.no_grad()
    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        check_trees(self.model)
        self.catch_up(self.vocabulary.to_drafter(answer))

        def read(tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
            assert self.state is not None
            own = self.vocabulary.to_drafter(tokens)
            rows = self.model.read(ids_on(self.device, own)[None], self.state, parents)[0]
            self._nodes += zip(own, rows, strict=True)
            return self.vocabulary.to_target(self.model.lm_head(rows))

        return grow(self.next_logits(), read, shape, depth, sampler, self.vocabulary.end_token_ids)

    def next_logits(self) -> Tensor:
        """[V] of the target's vocabulary, after all that was read."""
        return self.vocabulary.to_target(self.model.lm_head(self.rows[-1]))

    def catch_up(self, tokens: list[int]) -> None:
        """Bring the cache to an answer: forget from where it differs, read what is new.

        Raises:
            ValueError: the prompt has not been read.
        """
        if self.state is None:
            raise ValueError(f"{self.name}: expected start() before propose()")
        if self._nodes:
            self._settle(tokens)
        shared, cached = common_prefix(self.read, tokens), len(self.rows) - 1
        if shared < cached:
            self.model.rollback(self.state, self.state.length - cached + shared)
            del self.read[shared:], self.rows[shared + 1 :]
        if shared < len(tokens):
            self.read_on(tokens[shared:])

    def _settle(self, tokens: list[int]) -> None:
        """Of the tree that was drafted keep the path that the answer took."""
        assert self.state is not None
        path, at = list[int](), -1
        new = tokens[len(self.read) :] if tokens[: len(self.read)] == self.read else []
        for token in new:
            nodes = enumerate(zip(self.state.tree, self._nodes, strict=True))
            at = next((node for node, (parent, (own, _)) in nodes if parent == at and own == token), -1)
            if at < 0:
                break
            path.append(at)
        self.model.settle(self.state, path)
        self.read += [self._nodes[node][0] for node in path]
        self.rows += [self._nodes[node][1] for node in path]
        self._nodes = []

    def read_on(self, tokens: list[int]) -> None:
        """Read more tokens (its own ids) in one pass; none where the target's token cannot be spelled in them."""
        if tokens:
            self._read(ids_on(self.device, tokens))
            self.read += tokens

    def follow(self, token: Tensor) -> None:
        """Read a drafted token, its target's id [1] on any device, that the host need not know yet; see `told`."""
        self._read(self.vocabulary.one_to_one(token).to(self.device))

    def told(self, draft: Draft) -> Draft:
        """Note what tokens of a draft were read by `follow`, now that they are known."""
        self.read += self.vocabulary.one_to_one(torch.tensor(draft.tokens, dtype=torch.long)).tolist()
        del self.read[len(self.rows) - 1 :]
        return draft

    def _read(self, tokens: Tensor) -> None:
        assert self.state is not None
        self.rows.extend(self.model.read(tokens[None], self.state)[0])


class RetokenizedDrafter:
    """Drafts words with a model of any vocabulary and spells them in the target's tokens.

    The draft is taken as chosen with certainty, so the lossless rules keep the target's output (greedy) or its
    distribution (sampling), whatever the two tokenizers do. The price under sampling: a token x is kept with the
    target's p(x), where a drafter whose q is known keeps min(1, p(x) / q(x)).
    """

    def __init__(self, model: Model, target: Model, name: str | None = None):
        own = torch.arange(model.vocab_size)[:, None].expand(-1, 2)
        vocabulary = Vocabulary(own, model.tokenizer, model.tokenizer, model.vocab_size, model.eos_token_ids)
        self.inner = ModelDrafter(model, vocabulary)
        self.tokenizer, self.end_token_ids = target.tokenizer, target.eos_token_ids
        self.name, self.device = name or f"{model.name} (by text)", model.device

    def keep(self, scene: Any) -> None:
        self.inner.keep(scene)

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.inner.start(scene, question, recorder)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        text = self._spell(self.tokenizer, answer)
        theirs = self.inner.model.tokenizer
        known = theirs(text, add_special_tokens=False).input_ids
        inner = self.inner.propose(known, count, sampler, stop)
        drafted = [token for token in inner.tokens if token not in self.inner.vocabulary.end_token_ids]
        ended = len(drafted) < len(inner.tokens)
        whole = self._spell(theirs, [*known, *drafted])
        if not whole.startswith(text):  # a character was cut in two at the seam
            return Draft()
        tokens = self.tokenizer(whole, add_special_tokens=False).input_ids
        if common_prefix(tokens, answer) == len(answer):
            tokens = tokens[len(answer) :]
        else:  # the target split the text so far in another way than its tokenizer would
            tokens = self.tokenizer(whole[len(text) :], add_special_tokens=False).input_ids
        if ended and self.end_token_ids:
            tokens = [*tokens, min(self.end_token_ids)]
        return certain(list(tokens[:count]), None)

    @staticmethod
    def _spell(tokenizer: Any, ids: Sequence[int]) -> str:
        text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")  # half a character
