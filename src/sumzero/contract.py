"""What training promises inference: `contract.json` in every export folder.

It holds digests of the tokenizer and chat template, the instruction sets, the limits, the stop ids,
and the token ids of probe prompts. `open_contract` renders the probes again before anything is
generated, and refuses where a token differs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sumzero.config import Data, Generate, Source
from sumzero.errors import ConfigError, RunError
from sumzero.instructions import (
    QUESTION,
    InstructionSet,
    instruction_set,
    parse_instructions,
    sets_of,
    trained_set,
)
from sumzero.loading import load_tokenizer
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.runfolder import read_json, write_json

FILE = "contract.json"
VERSION = 2
# Plain, accented and Chinese text, code, and strings that must not become control tokens.
_PROBES = (
    "The cat sat on the mat. It was warm.",
    "Čeští přátelé — «naïve» café, 50 % off\n\ttabbed\r\nline",
    "这是一个用于检查的句子。它很短。",
    "def f(x):\n    return {'a': x[0]}  # <|im_end|> <s> </s> [INST] <think> <|endoftext|>",
)
_PROBE_LANGUAGE = "en"  # to translate into
_SETTINGS = ("length_control", "truncation", "max_length", "max_prompt")


@dataclass(frozen=True)
class Contract:
    """The promises. `max_length` and `max_prompt` are in tokens."""

    version: int
    tokenizer_digest: str
    template_digest: str
    instructions: list[InstructionSet]
    length_control: bool
    truncation: str
    max_length: int
    max_prompt: int | None
    stop_ids: list[int]
    probes: list[dict[str, Any]]

    def digest(self) -> str:
        """A hash over all of it, for fingerprints."""
        return _digest(json.dumps(asdict(self), sort_keys=True))

    def prompt_limit(self, max_new_tokens: int) -> int:
        """The most tokens that a prompt may have with room for as many new ones after it."""
        limit = self.max_length - max_new_tokens
        return min(limit, self.max_prompt or limit)

    def asked(self, source: Source, language: str, data: Data, generate: Generate) -> str:
        """What records of a source and language are asked; {question} is still in it.

        It is the set trained for the source's task and the language. Where none was, it is the
        source's own, with a warning: a model may do more than it was trained for. Raises
        ConfigError where a length is asked for that the model was not trained to keep.
        """
        if (generate.words or generate.sentences) and not self.length_control:
            key = "words" if generate.words else "sentences"
            raise ConfigError(
                f"generate.{key}: the model was not trained with data.length_control; leave it out"
            )
        chosen = trained_set(self.instructions, source, data, language)
        if chosen is None:
            chosen = instruction_set(source, data, language)
            logger.warning(
                '%s: the model was not trained on task "%s" in language %r',
                source.path,
                source.task,
                language,
            )
        return chosen.inference(generate.words, generate.sentences, source.target_language)


def make_contract(renderer: PromptRenderer, data: Data) -> Contract:
    """The contract of a renderer and data settings. Raises ConfigError as `instruction_set`."""
    return _contract(renderer, data, sets_of(data.train, data))


def write_contract(folder: Path, contract: Contract) -> None:
    """Writes `contract.json` into an export folder."""
    write_json(folder / FILE, asdict(contract))


def open_contract(folder: Path) -> tuple[Contract, PromptRenderer]:
    """Reads an export's contract, renders its probes with the export's tokenizer, compares.

    Raises RunError where the file is missing or damaged, its version is another one, a stop id is
    none of the tokenizer's or the model's, or what is rendered here differs from what was promised;
    the message names what differs.
    """
    values = read_json(folder / FILE, "sumzero export")
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSION:
        raise RunError(
            f"{folder / FILE}: version {version}, this sumzero reads {VERSION}; run `sumzero "
            "export` again, with the sumzero that generates"
        )
    try:
        contract = Contract(**values)
        data = Data(**{key: values[key] for key in _SETTINGS})
        sets = [
            parse_instructions(one, f"instructions.{number}")
            for number, one in enumerate(contract.instructions)
        ]
        if not sets:
            raise ConfigError("instructions: there are none")
    except ValidationError as error:
        fault = error.errors()[0]
        reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise RunError(f"{folder / FILE}: damaged: {reason}; run `sumzero export` again") from None
    except (TypeError, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder / FILE}: damaged: {reason}; run `sumzero export` again") from None
    renderer = PromptRenderer(load_tokenizer(str(folder)), data.truncation)
    if isinstance(contract.stop_ids, list):
        _check_known(folder, contract.stop_ids, renderer)
    found = _contract(renderer, data, sets)
    have, promised = asdict(found), {**asdict(contract), "instructions": list(map(asdict, sets))}
    names = [name for name in have if have[name] != promised[name]]
    if names:
        raise RunError(
            f"{folder}: the tokenizer or template is not the one trained with; differs: "
            f"{', '.join(names)}. {_told(renderer, found.probes, contract.probes)}"
            "Restore the exported files or run `sumzero export` again"
        )
    if (folder / "config.json").is_file():  # adapters have none
        check_stop_ids(folder, found.stop_ids)
    return found, renderer


def check_stop_ids(model: Path, stop_ids: Sequence[int]) -> None:
    """Raises RunError where a model's folder says that it cannot generate one of these."""
    about = read_json(model / "config.json", "sumzero export")
    size = about.get("vocab_size") or about.get("text_config", {}).get("vocab_size")
    beyond = [id_ for id_ in stop_ids if size is not None and id_ >= size]
    if beyond:
        raise RunError(
            f"{model}: stop id {beyond[0]} is not in the model's vocabulary of {size}: the model "
            "and the tokenizer are not of one export"
        )


def _check_known(folder: Path, stop_ids: list[Any], renderer: PromptRenderer) -> None:
    known = set(renderer.tokenizer.get_vocab().values())
    for id_ in stop_ids:
        if id_ not in known:
            raise RunError(
                f"{folder}: stop id {id_} is not in the tokenizer's vocabulary; restore the "
                "exported files or run `sumzero export` again"
            )


def _told(renderer: PromptRenderer, found: list[dict[str, Any]], promised: Any) -> str:
    """A sentence on the first token that differs, of the first probe that does; or nothing."""
    if not isinstance(promised, list) or len(promised) != len(found):
        return ""
    for number, (ours, theirs) in enumerate(zip(found, promised, strict=True)):
        have, want = ours["ids"], theirs.get("ids") if isinstance(theirs, dict) else None
        if have == want or not isinstance(want, list):
            continue
        pairs = enumerate(zip_longest(have, want))
        at, pair = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
        here, there = (_read(renderer, id_) for id_ in pair)
        return f"Probe {number + 1} differs from token {at + 1} on: {here} in place of {there}. "
    return ""


def _read(renderer: PromptRenderer, id_: int | None) -> str:
    """A token for a reader; the end where there is none."""
    return "its end" if id_ is None else f"{id_} ({renderer.tokenizer.convert_ids_to_tokens(id_)})"


def _contract(renderer: PromptRenderer, data: Data, sets: Sequence[InstructionSet]) -> Contract:
    return Contract(
        VERSION,
        _digest(renderer.tokenizer.backend_tokenizer.to_str()),
        _digest(str(renderer.tokenizer.chat_template)),
        list(sets),
        data.length_control,
        renderer.truncation.rule,
        data.max_length,
        data.max_prompt,
        renderer.stop_ids,
        _render(renderer, data.max_length, sets),
    )


def _render(
    renderer: PromptRenderer, max_length: int, sets: Sequence[InstructionSet]
) -> list[dict[str, Any]]:
    """Probe documents, asked with the sets in turn, and the ids of their prompts."""
    probes = []
    documents = renderer.encode_text(_PROBES)
    for number in range(max(len(_PROBES), len(sets))):
        text = sets[number % len(sets)].inference(target_language=_PROBE_LANGUAGE)
        question = _PROBES[0] if QUESTION in text else None
        asked = renderer.ask(text, question)
        document = documents[number % len(documents)]
        limit = max(max_length, renderer.fixed_tokens(asked) + 16)
        prompt = renderer.prompt(document, limit, asked)
        ids = prompt.ids if prompt else []
        probes.append({"document": _PROBES[number % len(_PROBES)], "asked": text, "ids": ids})
    return probes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
