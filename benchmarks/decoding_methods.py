"""What `benchmarks.decoding` compares: every way of decoding, by part."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from egptlib.adapters import load_adapter, load_lora
from egptlib.decoding import (
    AdapterDrafter,
    AdaptiveLength,
    CascadeDrafter,
    CosineThreshold,
    Deferral,
    Drafter,
    DrafterProcess,
    FixedLength,
    Fuzzy,
    HeadDrafter,
    NgramDrafter,
    Rule,
    SequenceDrafter,
    TopK,
    Typical,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.measuring import (
    BlankedDrafter,
    Method,
    report_costs,
    transformers_baselines,
    transformers_generate,
    with_threads,
)
from egptlib.models import LanguageModel, Model, Pair, load_pair, open_model
from egptlib.scenes import Scene

BASELINE, PLAIN = "generate (transformers)", "plain loop"
BOTH_CORES = "generate (transformers), two threads"
Prompt = tuple[Scene, str]


class Bench:
    """The pair, and what every part needs of it."""

    def __init__(self, pair: Pair, processes: ExitStack, tokens: int, adapters: Path | None, layers: list[int]):
        self.pair, self.processes, self.tokens, self.adapters, self.layers = pair, processes, tokens, adapters, layers
        self.target, self.drafter = pair.target, as_drafter(pair.drafter, pair.target, pair.matching)
        self.process = self.beside(self.drafter)
        self.assistants: Sequence[Model] = ()
        self.rules: dict[str, Rule] = {}
        self.refused: dict[str, str] = {}

    def speculative(self, drafter: Drafter, gamma: Any, rule: Rule | None = None) -> Method:
        return partial(speculative_generate, self.target, drafter, gamma=gamma, max_new_tokens=self.tokens, rule=rule)

    def beside(self, drafter: Drafter) -> DrafterProcess:
        return self.processes.enter_context(DrafterProcess(drafter, self.target.eos_token_ids))

    def hidden(self, gamma: int, process: DrafterProcess | None = None, then: Drafter | None = None) -> Method:
        options: dict[str, Any] = {"gamma": gamma, "max_new_tokens": self.tokens, "then": then}
        return partial(hidden_prefill_generate, self.target, process or self.process, **options)

    def pipelined(self, gamma: int, process: DrafterProcess | None = None, **options: Any) -> Method:
        options |= {"gamma": gamma, "max_new_tokens": self.tokens}
        return partial(pipelined_generate, self.target, process or self.process, **options)

    def common(self) -> dict[str, Method]:
        def plain(scene: Scene, question: str) -> list[int]:
            return self.target.decode_greedy(self.target.start(scene, question), self.tokens)[0].tolist()

        return {BASELINE: transformers_generate(self.target, self.tokens), PLAIN: plain}

    def drafting(self, prompts: list[Prompt]) -> dict[str, Method]:
        """EventGPT as the drafter, in sequence and beside the target, and its control."""
        costs = report_costs(self.pair, *prompts[0], gammas=range(13), repeats=5, measure_contention=False).costs
        table = {BOTH_CORES: with_threads(self.common()[BASELINE], 2)}
        table["plain loop, two threads"] = with_threads(self.common()[PLAIN], 2)
        for gamma in (5, 8):
            table[f"EventGPT, gamma {gamma}, two threads"] = with_threads(self.speculative(self.drafter, gamma), 2)
        table["empty drafter"] = self.speculative(SequenceDrafter(), 5)
        table |= {f"EventGPT, gamma {gamma}": self.speculative(self.drafter, gamma) for gamma in (2, 3, 5, 8)}
        table["EventGPT, gamma 8, stops below 0.4"] = self.speculative(self.drafter, FixedLength(8, 0.4))
        table["EventGPT, skip rule"] = self.speculative(self.drafter, AdaptiveLength(costs, 12, min_confidence=0.4))
        table["EventGPT, gamma 5, events blanked"] = self.speculative(BlankedDrafter(self.drafter), 5)
        table |= {f"prefill hidden, gamma {gamma}": self.hidden(gamma) for gamma in (5, 8)}
        table |= {f"pipelined, gamma {gamma}": self.pipelined(gamma) for gamma in (3, 4)}
        table["pipelined, gamma 8, stops below 0.4"] = self.pipelined(8, min_confidence=0.4)
        return table

    def in_sequence(self, prompts: list[Prompt]) -> dict[str, Method]:
        """The drafter in sequence with two threads for each model, with its control, beside another pair's drafter."""
        table = {BOTH_CORES: self.common()[BASELINE], "plain loop, two threads": self.common()[PLAIN]}
        for length in (5, 8, FixedLength(8, 0.4), FixedLength(12, 0.6)):
            stops = f", stops below {length.min_confidence}" if isinstance(length, FixedLength) else ""
            gamma = length.gamma if isinstance(length, FixedLength) else length
            table[f"EventGPT, gamma {gamma}{stops}, two threads"] = self.speculative(self.drafter, length)
        table["EventGPT, gamma 8, two threads, events blanked"] = self.speculative(BlankedDrafter(self.drafter), 8)
        if self.pair.name != "mini":
            mini = as_drafter(load_pair("mini").drafter, self.target)
            table["mini's EventGPT across vocabularies, gamma 8, two threads"] = self.speculative(mini, 8)
        if self.adapters is not None:
            head = self._from_folder(self.adapters)
            table["E3S, gamma 8, two threads"] = self.speculative(head, 8)
        return {name: with_threads(method, 2) for name, method in table.items()}

    def best(self, prompts: list[Prompt]) -> dict[str, Method]:
        """EventGPT in the target's prefill, then a trained head in its loop; every stage with its control."""
        if self.adapters is None:
            raise SystemExit("--only best: expected --adapters FOLDER, with B1 and E3 in it")
        b1, e3 = (self._from_folder(self.adapters / level) for level in ("B1", "E3"))
        blanked, ngrams = self.beside(BlankedDrafter(self.drafter)), NgramDrafter(self.target.tokenizer)
        third = self.beside(CascadeDrafter(self.pair.drafter, ngrams, self.pair.vocabulary, gamma=3))
        return {
            BOTH_CORES: with_threads(self.common()[BASELINE], 2),
            "B1, gamma 8": self.speculative(b1, 8),
            "pipelined, gamma 3": self.pipelined(3),
            "pipelined, gamma 3, events blanked": self.pipelined(3, blanked),
            "pipelined, gamma 3, n-grams > EventGPT": self.pipelined(3, third),
            "prefill hidden, then B1, gamma 8": self.hidden(8, then=b1),
            "prefill hidden, then B1, gamma 8, events blanked": self.hidden(8, blanked, b1),
            "prefill hidden, then E3, gamma 8": self.hidden(8, then=e3),
        }

    def baselines(self, prompts: list[Prompt]) -> dict[str, Method]:
        """What needs no second model, what transformers itself offers, and cascades."""
        table: dict[str, Method] = {}
        for number in (3, 5):
            offered, refused = transformers_baselines(
                self.target, prompts, self.tokens, number, self.assistants if number == 5 else ()
            )
            table, self.refused = table | offered, self.refused | refused
        ngrams = NgramDrafter(self.target.tokenizer)
        table |= {f"n-grams, gamma {gamma}": self.speculative(ngrams, gamma) for gamma in (3, 5)}
        for assistant in self.assistants:
            drafter = as_drafter(assistant, self.target, self.pair.matching)
            table[f"{drafter.name}, gamma 5"] = self.speculative(drafter, 5)
        if self.pair.vocabulary.is_shared:
            for name, rule in (("lossless", None), ("top-3", TopK(3))):
                cascade = CascadeDrafter(self.pair.drafter, ngrams, self.pair.vocabulary, gamma=3, rule=rule)
                table[f"cascade n-grams > EventGPT ({name} inside), gamma 5"] = self.speculative(cascade, 5)
        table["EventGPT, gamma 5"] = self.speculative(self.drafter, 5)
        return table

    def trained(self, prompts: list[Prompt]) -> dict[str, Method]:
        """Adapters and heads from a folder with one folder a level."""
        if self.adapters is None:
            raise SystemExit("--only adapters: expected --adapters FOLDER, with one folder a level")
        table = {"EventGPT, gamma 5": self.speculative(self.drafter, 5)}
        for folder in sorted(p.parent for p in self.adapters.glob("*/adapter.json")):
            if (folder / "row.json").is_file() and folder.name != "L4-looks-ahead":
                table[f"{folder.name}, gamma 5"] = self.speculative(self._from_folder(folder), 5)
        return table

    def _from_folder(self, folder: Path) -> Drafter:
        if json.loads((folder / "adapter.json").read_text())["settings"]["level"] == "L6":
            return as_drafter(load_lora(folder, load_pair(self.pair.name)).merge(), self.target)
        adapter: Any = load_adapter(folder)
        vocabulary = self.pair.vocabulary
        if not adapter.runs_ahead:
            return AdapterDrafter(self.pair.drafter, adapter, self.target, vocabulary)
        layers = adapter.settings.source_layers or self.layers if "target_layers" in adapter.inputs else ()
        return HeadDrafter(self.pair.drafter, adapter, self.target, vocabulary, layers)

    def lossy(self, prompts: list[Prompt]) -> dict[str, Method]:
        """Rules that change answers, at gamma 5; the cosine rule on the states of an adapter."""
        table = {"EventGPT, gamma 5": self.speculative(self.drafter, 5)}
        rules: list[Rule] = [TopK(2), TopK(3), Typical(), Fuzzy(0.2), Deferral(0.1)]
        self.rules = {f"EventGPT, {rule.name}": rule for rule in rules}
        table |= {name: self.speculative(self.drafter, 5, rule) for name, rule in self.rules.items()}
        if self.adapters is not None and (self.adapters / "L1" / "adapter.json").is_file():
            aligned = self._from_folder(self.adapters / "L1")
            table["L1, gamma 5"] = self.speculative(aligned, 5)
            for rule in (CosineThreshold(0.95), CosineThreshold(0.9), CosineThreshold(0.8)):
                self.rules[f"L1, {rule.name}"] = rule
                table[f"L1, {rule.name}"] = self.speculative(aligned, 5, rule)
        return table


PARTS: dict[str, Callable[[Bench, list[Prompt]], dict[str, Method]]] = {
    "drafting": Bench.drafting,
    "sequence": Bench.in_sequence,
    "best": Bench.best,
    "baselines": Bench.baselines,
    "adapters": Bench.trained,
    "lossy": Bench.lossy,
}


def languages_of(pair: Pair, folders: Sequence[Path]) -> list[Model]:
    """Text-only language models that may assist the target.

    Those of the folders; for the mini pair without any, its drafter's own language model, once as it is and once with
    its ids in another order, so that the two tokenizers differ.
    """
    if folders or pair.name != "mini":
        place: dict[str, Any] = {"dtype": pair.target.dtype, "device_map": {"": pair.target.device}}
        return [open_model(folder, "events", **place) for folder in folders]
    drafter: Any = pair.drafter
    fields = {name: value for name, value in drafter.module.config.to_dict().items() if name in vars(LlamaConfig())}
    order = torch.arange(drafter.vocab_size)
    order[3 : drafter.tokenizer.vocab_size] = order[3 : drafter.tokenizer.vocab_size].flip(0)
    made: list[Model] = []
    for name, places in (("EventGPT's language", torch.arange(len(order))), ("EventGPT's language, other ids", order)):
        module = LlamaForCausalLM(LlamaConfig(**fields))
        module.model.load_state_dict(drafter.language_model.state_dict())
        for part in (module.model.embed_tokens, module.lm_head):
            source = drafter.token_embedding if part is module.model.embed_tokens else drafter.lm_head
            part.weight.data[places] = source.weight.detach()
        told = json.loads(drafter.tokenizer.backend_tokenizer.to_str())
        told["model"]["vocab"] = {word: int(places[i]) for word, i in told["model"]["vocab"].items()}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(told)), bos_token="<s>", eos_token="</s>", pad_token="<unk>"
        )
        if torch.equal(places, places.sort().values):  # it is shown ids then, those of pictures too, in place of text
            module.resize_token_embeddings(pair.target.vocab_size, mean_resizing=False)
        module.generation_config = drafter.module.generation_config
        made.append(LanguageModel(module.to(pair.target.dtype).eval(), tokenizer, name))
    return made
