"""Drafting at the feature level: an adapter turns states into the target's, and the target's lm head reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib._clock import Recorder
from egptlib.adapters import Adapter, AlignerRun, AttentionAdapter, BlockRun, Head, HeadRun, head_run
from egptlib.decoding._drafters import Draft, Stop
from egptlib.decoding._model_drafter import Chain, ModelDrafter
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import TreeShape, grow
from egptlib.models import Model, Pair, State, Vocabulary, common_prefix, ids_on


class AdapterDrafter(ModelDrafter):
    """The drafter's states, aligned (L1 to L4), read by the target's lm head. Tokens come in the target's ids.

    The draft carries its aligned states, which the lossy cosine rule compares. The adapter moves to the
    drafter's device.
    """

    def __init__(self, model: Model, adapter: Adapter, target: Model, vocabulary: Vocabulary, name: str | None = None):
        if adapter.runs_ahead:
            raise ValueError(f"adapter {adapter.level} runs ahead: expected L1 to L4 here (see HeadDrafter)")
        adapter.check_widths(model.hidden_size, target.hidden_size)
        super().__init__(model, vocabulary, name or f"{model.name} + {adapter.level}")
        self.adapter, self.lm_head = adapter.eval().to(model.device), target.lm_head
        self._dtype = next(adapter.parameters()).dtype
        self._run = AlignerRun(adapter) if isinstance(adapter, AttentionAdapter) else None
        self._seen: list[Tensor] = []  # the rows in the run's cache
        self._aligned: list[Tensor] = []

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        self._aligned = []
        draft = super().propose(answer, count, sampler, stop)
        draft.hidden = torch.stack(self._aligned[: len(draft.tokens)]) if self._aligned else None
        return draft

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        raise ValueError(f"{self.name}: drafts chains alone, no trees")

    def next_logits(self) -> Tensor:
        if self._run is None:
            aligned = self.adapter(self.rows[-1][None, None].to(self._dtype))[0, 0]
        else:
            same = (i for i, (old, new) in enumerate(zip(self._seen, self.rows, strict=False)) if old is not new)
            known = next(same, min(len(self._seen), len(self.rows) - 1))
            self._run.crop(known)
            aligned = self._run.read(torch.stack(self.rows[known:]).to(self._dtype))[-1]
            self._seen = list(self.rows)
        self._aligned.append(aligned.to(self.lm_head.weight))
        return self.lm_head(self._aligned[-1])


class HeadDrafter(ModelDrafter):
    """A head that runs ahead in feature space from what is known (L5, L5F, B1, E3, E3S, DF).

    The loop hands the target's states over through `watch`. L5 and L5F also want the drafter's, so that it reads the
    prompt, and with L5F every drafted token; the others live on the target's states alone, and `model` stays idle. DF
    names all tokens of a draft in one pass. The head moves to the target's device.

    Args:
        source_layers: for E3, E3S and DF, the numbers of the target's layers whose states it was trained on; those of
            its settings when left out.

    Raises:
        ValueError: other than as many source layers as the head fuses, or made for other widths.
    """

    def __init__(
        self,
        model: Model,
        head: Head,
        target: Model,
        vocabulary: Vocabulary,
        source_layers: Sequence[int] | None = None,
        name: str | None = None,
    ):
        wanted = head.settings.num_source_layers if "target_layers" in head.inputs else 0
        if source_layers is None:
            source_layers = head.settings.source_layers if wanted else ()
        if len(source_layers) != wanted:
            raise ValueError(f"head {head.level}: source_layers: expected {wanted} numbers, found {len(source_layers)}")
        head.check_widths(model.hidden_size, target.hidden_size)
        super().__init__(model, vocabulary, name or f"{head.level} head")
        self.head, self.lm_head, self.source_layers = (
            head.eval().to(target.device),
            target.lm_head,
            tuple(source_layers),
        )
        self._place = next(self.head.parameters())  # whose device and dtype it reads in
        self._forget()

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        if "drafter_hidden" in self.head.inputs:
            super().start(scene, question, recorder)
        self._forget()

    def begin(self, state: State) -> None:
        super().begin(state)
        self._forget()

    def _forget(self) -> None:
        self._run, self._known = head_run(self.head), list[int]()
        self._watched: dict[str, list[Tensor]] = {"target_hidden": [], "target_layers": []}

    @property
    def reads_prompt(self) -> bool:
        return self.head.reads_prompt

    @torch.no_grad()
    def watch_prompt(self, ids: Tensor, layers: Tensor) -> None:
        assert isinstance(self._run, HeadRun)
        tokens = self.head.look_up(ids[1:].to(self.lm_head.weight.device), self.lm_head.weight)
        self._run.begin(layers[:-1].to(self._place), tokens.to(self._place))

    def watch(self, rows: Tensor, layers: Tensor) -> None:
        self._watched["target_hidden"].extend(rows)
        self._watched["target_layers"].extend(layers)

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        tokens, along = list(answer), self.head.drafter_along
        count = min(count, self._room(tokens))
        if count < 1 or not tokens:
            return Draft()
        # Of two vocabularies the drafter that reads along may have to spell a token in several of its own.
        spelled = along and not self.vocabulary.is_shared
        chain = Chain(count, sampler, self.vocabulary.end_token_ids, stop, known=spelled)
        if isinstance(self._run, BlockRun):
            block = self._run.read(*self._unread(tokens), depths=count)
            chain.choose(self._logits(block))
            return self._with_states(chain.draft(), block)
        states = [self._run.read(*self._unread(tokens))]
        while chain.choose(self._logits(states[-1])):
            if spelled:
                self.read_on(self.vocabulary.to_drafter(chain.tokens[-1:]))
            elif along:
                self.follow(chain.last)
            states.append(self._run.go_on(*self._ahead(chain.last)))
        draft = chain.draft() if spelled or not along else self.told(chain.draft())
        return self._with_states(draft, torch.stack(states))

    def _with_states(self, draft: Draft, states: Tensor) -> Draft:
        draft.hidden = states[: len(draft.tokens)].to(self.lm_head.weight.dtype)
        return draft

    @torch.no_grad()
    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        if self.head.drafter_along:
            raise ValueError(f"{self.name}: the drafter reads along with it: drafts chains alone, no trees")
        tokens = list(answer)
        depth = min(depth, self._room(tokens))
        if depth < 1 or not tokens:
            return Draft()

        run, ends = self._run, self.vocabulary.end_token_ids
        if isinstance(run, BlockRun):
            # It names no token by another: what it predicts is one for a whole level.
            levels = iter(self._logits(run.read(*self._unread(tokens), depths=depth)))
            return grow(next(levels), lambda new, _: next(levels).expand(len(new), -1), shape, depth, sampler, ends)

        def read(new: Sequence[int], parents: Sequence[int]) -> Tensor:
            if "token_states" in self.head.inputs:
                return self._logits(run.branch(parents, *self._ahead(self._ids(new))))
            # It does not look at tokens: what it predicts is one for a whole level.
            return self._logits(run.go_on(*self._ahead(self._ids([])))).expand(len(new), -1)

        return grow(self._logits(run.read(*self._unread(tokens))), read, shape, depth, sampler, ends)

    def _room(self, tokens: list[int]) -> int:
        return self.head.settings.max_positions - self._run.before - len(tokens)

    def _unread(self, tokens: list[int]) -> list[Tensor]:
        """The rows of an answer that its head is to read, as far as they are new; it forgets what is no longer so."""
        first = min(common_prefix(self._known, tokens), len(tokens) - 1)  # the anchor's row is always read
        self._run.crop(first)
        self._known = list(tokens)
        return self._rows(tokens, first)

    def _logits(self, states: Tensor) -> Tensor:
        return self.head.logits(states, self.lm_head.weight)

    def _ids(self, tokens: Sequence[int]) -> Tensor:
        return ids_on(self.lm_head.weight.device, tokens)

    def _ahead(self, ids: Tensor) -> list[Tensor]:
        """What the head takes at drafted tokens [n], in the order of its `inputs`.

        The target has no states there: the head's own predictions take their place.
        """
        rows = []
        for name in self.head.inputs:
            if name == "token_states":
                rows.append(self.head.look_up(ids, self.lm_head.weight).to(self._place))
            elif name == "drafter_hidden" and self.head.drafter_along:
                rows.append(self.rows[-1][None].to(self._place))
            else:
                rows.append(self._place.new_empty(0))
        return rows

    def _rows(self, tokens: list[int], first: int) -> list[Tensor]:
        """What the head takes at the places of `tokens` from `first` on, in the order of its `inputs`."""
        rows = []
        for name in self.head.inputs:
            if name == "token_states":
                given = self.head.look_up(self._ids(tokens[first:]), self.lm_head.weight)
            elif name == "drafter_hidden":
                shift = self.head.drafter_shift  # 1: the drafter has read the last token
                known = tokens[: len(tokens) - 1 + shift]
                self.catch_up(self.vocabulary.to_drafter(known))
                places = self.vocabulary.places([*known, tokens[-1]])[first + shift :]
                given = torch.stack([self.rows[place] for place in places])
            else:
                if len(watched := self._watched[name]) < len(tokens):
                    raise ValueError(f"{self.name}: nobody hands it the target's states beside the target; see `then=`")
                given = torch.stack(watched[first : len(tokens)])
            rows.append(given.to(self._place))
        return rows


def adapted_drafter(pair: Pair, adapter: Adapter) -> AdapterDrafter | HeadDrafter:
    """A trained adapter of a pair as a drafter, whichever its level.

    Raises:
        ValueError: E3, E3S or DF whose settings do not say which layers it was trained on (see `HeadDrafter`).
    """
    if isinstance(adapter, Head):
        return HeadDrafter(pair.drafter, adapter, pair.target, pair.vocabulary)
    return AdapterDrafter(pair.drafter, adapter, pair.target, pair.vocabulary)
