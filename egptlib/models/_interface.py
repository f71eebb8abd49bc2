"""One interface for both models: encode, embed, prefill, step, roll back, answer.

A model is used along one sequence at a time (batch 1), as speculative decoding does. What differs between models is how
a scene and a question become embeddings; everything after that is written here once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from egptlib._clock import Recorder
from egptlib.models._lean import KeyValues, LeanLlama, lean_pass
from egptlib.models._preprocess import Preprocessor
from egptlib.models._quantization import precision_of
from egptlib.models._rules import APPLIED, Rules, active_fields, generation_rules
from egptlib.models._state import Answer, Inputs, Prompt, State, Step
from egptlib.models._structure import check_given, check_length, end_token_ids, layers_taken, whole_cache
from egptlib.models._trees import keep_rows, tree_arguments

if TYPE_CHECKING:
    from egptlib.scenes import FrameSampling

PromptAs = Literal["ids", "embeddings"]
"""How a prompt is handed to transformers' `generate`: ids and pictures, or what the class makes of them."""


class Model(ABC):
    """A language model that sees, with its tokenizer and its preprocessing.

    Attributes:
        name: how reports call it.
        module: the transformers model, or a module with its `get_input_embeddings` and `get_output_embeddings`.
        tokenizer: its tokenizer.
        preprocessor: images to pixel values; None where the model has its own way.
        language_model: the part between embeddings and logits; it ends with the final norm.
        lm_head: hidden states to logits.
    """

    def __init__(
        self, name: str, module: Any, tokenizer: Any, preprocessor: Preprocessor | None, language_model: nn.Module
    ):
        if missing := [part for part in ("layers", "norm") if not hasattr(language_model, part)]:
            kind = type(language_model).__name__
            raise ValueError(f"{name}: not usable: its language model {kind} has no {' and no '.join(missing)}")
        embeddings: list[Any] = [
            getattr(module, f"get_{side}_embeddings", lambda: None)() for side in ("input", "output")
        ]
        if None in embeddings:
            raise ValueError(
                f"{name}: not usable: expected get_input_embeddings() and get_output_embeddings() of its module "
                f"{type(module).__name__} to give its token embedding and its lm head"
            )
        self.name, self.module, self.tokenizer = name, module, tokenizer
        self.preprocessor: Any = preprocessor
        self.language_model = language_model
        self.lm_head: nn.Linear
        self.token_embedding: nn.Embedding
        self.token_embedding, self.lm_head = embeddings
        self.final_norm: nn.Module = language_model.norm  # type: ignore[assignment]
        self.eos_token_ids = end_token_ids(module, tokenizer)
        self._lean: LeanLlama | None = None
        self._reads_trees = False  # nobody has looked yet

    @property
    def sampling(self) -> FrameSampling:
        """How `open_scenes` should take frames for it: evenly, or as its own processor does."""
        return "even"

    @abstractmethod
    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        """Preprocess a scene's pictures and tokenize a question about it.

        `like` holds the inputs of another question about the same scene: its pictures are taken as they are.
        """

    @abstractmethod
    def embed(self, inputs: Inputs) -> Tensor | Prompt:
        """Prompt embeddings [1, T, H], visual tokens in place: the vision stage.

        A `Prompt` where the language model is given more than embeddings.
        """

    @property
    def frames_apart(self) -> bool:
        """Whether what it sees in a frame does not depend on the other frames, so that `joined` can be used."""
        return False

    def joined(self, seen: Sequence[Inputs], num_frames: int, question: str) -> tuple[Inputs, int]:
        """Inputs of a question about a clip whose first frames are there: each encoded and embedded by itself.

        ValueError where the model does not see its frames apart.

        Returns:
            The inputs, the last of these frames standing in for those to come (`num_frames` in all); and how many of
            the prompt's leading positions the frames to come leave as they are.
        """
        raise ValueError(f"{self.name}: its frames are seen together, not one by one")

    def generate_inputs(self, inputs: Inputs, prompt_as: PromptAs | None = None) -> dict[str, Any]:
        """The same prompt as transformers' `generate` takes it; None: as its answers are compared with ours.

        Raises:
            ValueError: a prompt that cannot be given so.
        """
        prompt = Prompt.of(self.embed(inputs))
        if prompt_as == "ids" or prompt.given:
            raise ValueError(f"{self.name}: a prompt is more than {prompt_as or 'embeddings'}")
        mask = torch.ones(prompt.embeds.shape[:2], dtype=torch.long).to(prompt.embeds.device)
        return {"inputs_embeds": prompt.embeds, "attention_mask": mask}

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations (quantized weights are stored otherwise)."""
        return self.token_embedding.weight.dtype

    @property
    def precision(self) -> str:
        """Of its weights: "nf4", "int8", another quantization's name, or the dtype."""
        quantization = getattr(getattr(self.module, "config", None), "quantization_config", None)
        return precision_of(quantization) or str(self.dtype).removeprefix("torch.")

    @property
    def hidden_size(self) -> int:
        return self.lm_head.in_features

    @property
    def vocab_size(self) -> int:
        """Width of the logits; may exceed the tokenizer's vocabulary."""
        return self.lm_head.out_features

    def see(self, inputs: Inputs | Prompt | Tensor) -> Prompt:
        """A prompt, seen where it is given as `Inputs`.

        Raises:
            ValueError: it has another shape, or lacks what the class hands to its language model besides embeddings.
        """
        prompt = Prompt.of(self.embed(inputs) if isinstance(inputs, Inputs) else inputs)
        found, expected = list(getattr(prompt.embeds, "shape", ())), self.token_embedding.embedding_dim
        if len(found) != 3 or found[::2] != [1, expected]:
            raise ValueError(f"{self.name}: expected `embed` to give [1, T, {expected}], found {found}")
        check_given(self.module, self.language_model, prompt.given)
        return prompt

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise ValueError where the model has no layer of such a number."""
        count = len(self.language_model.layers)  # type: ignore[arg-type]
        if unknown := [number for number in layers if not 1 <= number <= count]:
            raise ValueError(f"layers: {self.name} has layers 1 to {count}, found {unknown[0]}")

    @torch.no_grad()
    def prefill(
        self,
        inputs: Inputs | Prompt | Tensor,
        layers: Sequence[int] = (),
        after: State | None = None,
        whole: bool = False,
        room: int = 128,
    ) -> State:
        """Read a prompt, given as `Inputs`, as `Prompt` or as embeddings [1, T, H].

        Args:
            layers: numbers of decoder layers, from 1 on, after which the states are kept as well, here and in every
                later pass (`State.layers`).
            after: where the prompt's beginning has been read already: fewer than T positions, which are not read
                again. Its cache is taken over, unless the prompt carries more than embeddings, or another pass filled
                it (a hook was set in between).
            whole: whether the states of all positions read are given, here alone, and not of the last one.
            room: memory is taken for so many more positions; where more follow, the cache moves.

        Raises:
            ValueError: a layer that the model does not have, an incomplete prompt (`see`), or a
                generation_config.json that cannot be followed.
        """
        self.check_layers(layers)
        prompt = self.see(inputs)
        embeds, length, rules = prompt.embeds, prompt.embeds.shape[1], self.rules(prompt)
        taken = dict.fromkeys(layers, embeds)
        self._lean = lean_pass(self.language_model, self._lean)
        lean = None if prompt.given else self._lean
        kept = None if after is None or prompt.given or after.lean is not lean else after.cache
        if kept is not None:
            embeds = embeds[:, kept.get_seq_length() :]
        if lean is not None:
            cache: Any = kept or lean.cache(length + room)
            hidden = lean(embeds[0], cache, taken, last=not whole)[None]
        else:
            check_length(self.language_model, length)
            cache = kept or whole_cache(self.language_model)
            with layers_taken(self.language_model, taken):
                hidden = self.language_model(
                    inputs_embeds=embeds, past_key_values=cache, use_cache=True, **prompt.given
                ).last_hidden_state
            if not whole:
                hidden, taken = hidden[:, -1:], {number: states[-1:] for number, states in taken.items()}
        logits = self.lm_head(hidden[:, -1])
        logits = logits if rules is None else rules(logits)
        return State(logits, hidden, cache, length, taken, prompt.offset, rules, lean)

    @property
    def rule_settings(self) -> dict[str, Any]:
        """The fields of the checkpoint's generation_config.json that change what it says."""
        settings = getattr(self.module, "generation_config", None)
        return {name: getattr(settings, name) for name in active_fields(settings, APPLIED)}

    def rules(self, prompt: Prompt) -> Rules | None:
        """What the checkpoint's generation_config.json does to logits after this prompt; None for most."""
        return generation_rules(self.module, prompt.ids, prompt.embeds.shape[1], self.device)

    @torch.no_grad()
    def read(self, tokens: Tensor, state: State, parents: Sequence[int] | None = None) -> Tensor:
        """Read n more tokens [1, n] in one pass, without asking for logits: last hidden states [1, n, H].

        The state moves on by n; `state.logits` is stale until the next `step`.

        Args:
            parents: n numbers; the tokens are nodes of a tree, each of which sees what was read before the tree, its
                ancestors and itself, and stands behind its parent. The nodes are numbered from 0 in the order in which
                they were read since the last `settle`, -1 is what stands before them. None: one behind the other.

        Raises:
            ValueError: a sequence longer than its angles allow, or a tree that was not settled is read on as a chain.
        """
        if parents is None and state.tree:
            raise ValueError(f"{self.name}: expected settle() before reading on behind a tree")
        first, after = state.length + state.offset, state.length + tokens.shape[1]
        if state.lean is None:
            check_length(self.language_model, after)
        state.length = after
        state.tree += parents or ()
        if state.rules is not None:
            state.rules.read(tokens[0])
        if isinstance(state.cache, KeyValues):
            assert state.lean is not None
            return state.lean(self.token_embedding(tokens[0]), state.cache, state.layers, tree=state.tree)[None]
        given = {}
        if parents is not None:
            given = tree_arguments(after - len(state.tree), state.tree, tokens, self.dtype, state.offset)
        elif state.offset:
            given["position_ids"] = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
        with layers_taken(self.language_model, state.layers):
            out = self.language_model(input_ids=tokens, past_key_values=state.cache, use_cache=True, **given)
        return out.last_hidden_state

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State, parents: Sequence[int] | None = None) -> Step:
        """Read n more tokens in one pass; the state moves on by n.

        Args:
            tokens: int64 [1, n]. n = 1 decodes, n > 1 verifies a draft.
            parents: as in `read`.
        """
        hidden = self.read(tokens, state, parents)
        logits = self.lm_head(hidden)
        if state.rules is not None:
            logits = state.rules(logits[0], state.tree)[None]
        state.logits = logits[:, -1]
        return Step(logits, hidden)

    def settle(self, state: State, path: Sequence[int]) -> None:
        """Keep the nodes of one path of the tree read last, from its root on, and forget all others."""
        before = state.length - len(state.tree)
        keep_rows(state.cache, before, path)
        if state.rules is not None:
            state.rules.keep(len(state.tree), path)
        state.cache.crop(before + len(path) - state.cache.get_seq_length())
        state.length, state.tree = before + len(path), []

    def rollback(self, state: State, length: int) -> None:
        """Forget the positions from `length` on. `state.logits` is stale until the next step."""
        if not 0 <= length <= state.length:
            raise ValueError(f"rollback: expected a length between 0 and {state.length}, found {length}")
        if state.rules is not None:
            state.rules.forget(state.length - length)
        state.cache.crop(length - state.length)  # transformers takes the number to remove, negative
        state.length = length

    def start(self, scene: Any, question: str, recorder: Recorder | None = None) -> State:
        """Preprocess, see and prefill, each stage recorded in the lane "target"."""
        recorder = recorder or Recorder()
        with recorder("target", "preprocess", self.device):
            inputs = self.encode(scene, question)
        with recorder("target", "vision", self.device), torch.no_grad():
            embeds = self.embed(inputs)
        with recorder("target", "prefill", self.device):
            return self.prefill(embeds)

    def greedy(self, scene: Any, question: str, max_new_tokens: int = 50) -> Answer:
        """Answer a question about a scene by always taking the likeliest token."""
        recorder = Recorder()
        state = self.start(scene, question, recorder)
        with recorder("target", "decode", self.device):
            token_ids, hidden = self.decode_greedy(state, max_new_tokens)
        times = {"load": scene.metadata.get("load_seconds", 0.0)} | {e.stage: e.seconds for e in recorder.events}
        return Answer(token_ids.cpu(), self.decode_text(token_ids), hidden, times)

    @torch.no_grad()
    def decode_greedy(self, state: State, max_new_tokens: int) -> tuple[Tensor, Tensor]:
        """Go on from a state; returns token ids [n] and the hidden states [n, H] that predict them."""
        tokens: list[Tensor] = []
        hidden = [state.hidden[:, -1]]
        for _ in range(max_new_tokens):
            token = state.logits.argmax(dim=-1)  # [1]
            tokens.append(token)
            if len(tokens) == max_new_tokens or int(token) in self.eos_token_ids:
                break
            hidden.append(self.step(token[None], state).hidden[:, -1])
        if not tokens:
            return torch.empty(0, dtype=torch.long), hidden[0][:0]
        return torch.cat(tokens), torch.cat(hidden)

    @torch.no_grad()
    def forward_answer(
        self, inputs: Inputs | Prompt | Tensor, token_ids: Sequence[int] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read a given answer after a prompt in one pass (teacher forcing).

        Args:
            inputs: the prompt, as in `prefill`.
            token_ids: the n tokens of the answer.

        Returns:
            hidden [n, H] and logits [n, V]; row t stands before token t and predicts it.
        """
        ids = torch.as_tensor(token_ids, dtype=torch.long, device=self.device).reshape(1, -1)
        if ids.shape[1] == 0:
            raise ValueError("forward_answer: expected at least one token, found none")
        prompt = self.see(inputs)
        if prompt.given:  # it holds for the prompt alone
            state = self.prefill(prompt)
            hidden = state.hidden[0]
            if ids.shape[1] > 1:
                hidden = torch.cat([hidden, self.read(ids[:, :-1], state)[0]])
        else:
            embeds = torch.cat([prompt.embeds, self.token_embedding(ids[:, :-1]).to(prompt.embeds.dtype)], dim=1)
            read = self.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            hidden = read[0, -ids.shape[1] :]
        logits, rules = self.lm_head(hidden), self.rules(prompt)
        return hidden, logits if rules is None else rules.after(ids[0, :-1])(logits)

    def decode_text(self, token_ids: Sequence[int] | Tensor) -> str:
        ids = token_ids.tolist() if isinstance(token_ids, Tensor) else list(token_ids)
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
