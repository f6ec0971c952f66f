"""A checkpoint's weights by DeepSpeed's own reader: what ours is compared with."""

import io
from contextlib import redirect_stderr, redirect_stdout

from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from sumzero.train.supervised import PREFIX


def consolidated_weights(checkpoints, tag):
    """Float32 weights by their names in `SupervisedLM.lm`, from all shards."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it is talkative
        weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoints), tag=tag)
    return {name.removeprefix(PREFIX): value for name, value in weights.items()}
