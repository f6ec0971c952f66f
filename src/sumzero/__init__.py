"""SumZero: fine-tune language models for summarization with ZeRO-3; serve and score with vLLM."""

__version__ = "0.1.0"
