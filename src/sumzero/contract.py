"""What training promises inference: `contract.json` in every export folder.

It holds digests of the tokenizer and chat template, the instruction, the limits, the stop ids, and
the token ids of probe prompts. `open_contract` renders the probes again before anything is
generated, and refuses where a token differs.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sumzero.config import Data
from sumzero.errors import RunError
from sumzero.prompt import PromptRenderer, load_tokenizer
from sumzero.runfolder import read_json, write_json

FILE = "contract.json"
VERSION = 1
# Plain, accented and Chinese text, code, and strings that must not become control tokens.
_PROBES = (
    "The cat sat on the mat. It was warm.",
    "Čeští přátelé — «naïve» café, 50 % off\n\ttabbed\r\nline",
    "这是一个用于检查的句子。它很短。",
    "def f(x):\n    return {'a': x[0]}  # <|im_end|> <s> </s> [INST] <think> <|endoftext|>",
)


@dataclass(frozen=True)
class Contract:
    """The promises. `max_length` and `max_prompt` are in tokens."""

    version: int
    tokenizer_digest: str
    template_digest: str
    instruction: str
    truncation: str
    max_length: int
    max_prompt: int | None
    stop_ids: list[int]
    probes: list[dict[str, Any]]

    def digest(self) -> str:
        """A hash over all of it, for fingerprints."""
        return _digest(json.dumps(asdict(self), sort_keys=True))


def make_contract(renderer: PromptRenderer, data: Data) -> Contract:
    """The contract of a renderer and data settings."""
    return Contract(
        VERSION,
        _digest(renderer.tokenizer.backend_tokenizer.to_str()),
        _digest(str(renderer.tokenizer.chat_template)),
        renderer.instruction,
        renderer.truncation.rule,
        data.max_length,
        data.max_prompt,
        renderer.stop_ids,
        [{"document": text, "ids": ids} for text, ids in _render(renderer, data.max_length)],
    )


def write_contract(folder: Path, contract: Contract) -> None:
    """Writes `contract.json` into an export folder."""
    write_json(folder / FILE, asdict(contract))


def open_contract(folder: Path) -> tuple[Contract, PromptRenderer]:
    """Reads an export's contract, renders its probes with the export's tokenizer, compares.

    Raises RunError where the file is missing or damaged, its version is another one, or what is
    rendered here differs from what was promised; the message names what differs.
    """
    values = read_json(folder / FILE, "sumzero export")
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSION:
        raise RunError(f"{folder / FILE}: version {version}, this sumzero reads {VERSION}")
    try:
        contract = Contract(**values)
        data = Data(
            **{
                key: values[key]
                for key in ("instruction", "truncation", "max_length", "max_prompt")
            }
        )
    except ValidationError as error:
        fault = error.errors()[0]
        reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise RunError(f"{folder / FILE}: damaged: {reason}; run `sumzero export` again") from None
    except TypeError as error:
        raise RunError(f"{folder / FILE}: damaged: {error}; run `sumzero export` again") from None
    renderer = PromptRenderer(load_tokenizer(str(folder)), data.instruction, data.truncation)
    found = make_contract(renderer, data)
    names = [name for name in asdict(found) if getattr(found, name) != getattr(contract, name)]
    if names:
        raise RunError(
            f"{folder}: the tokenizer or template is not the one trained with; differs: "
            f"{', '.join(names)}. Restore the exported files or run `sumzero export` again"
        )
    return contract, renderer


def _render(renderer: PromptRenderer, max_length: int) -> list[tuple[str, list[int]]]:
    probes = []
    for text, document in zip(_PROBES, renderer.encode_text(_PROBES), strict=True):
        prompt = renderer.prompt(document, max(max_length, renderer.fixed_tokens() + 16))
        probes.append((text, prompt.ids if prompt else []))
    return probes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
