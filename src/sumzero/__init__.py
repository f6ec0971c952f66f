"""SumZero: fine-tune language models for summarization with ZeRO-3; serve and score with vLLM.

from sumzero import Summarizer

summarize = Summarizer("runs/scitldr/export")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sumzero.infer.summarizer import Summarizer as Summarizer
    from sumzero.infer.summarizer import Summary as Summary

__version__ = "0.1.0"
_LAZY = ("Summarizer", "Summary")


def __getattr__(name: str) -> Any:
    """Imports on first use: `import sumzero` loads neither torch nor transformers."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sumzero.infer import summarizer

    return getattr(summarizer, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
