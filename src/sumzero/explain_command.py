"""`sumzero explain`: which sentences of each document carry its summary."""

import argparse
import json

from sumzero.run_options import config_of


def explain(options: argparse.Namespace) -> int:
    """Attributions of a sample of summaries."""
    from sumzero.infer.explain import explain
    from sumzero.infer.explanation_file import table
    from sumzero.runfolder import RunFolder

    config = config_of(options)
    head = explain(config, options.system, options.sample, options.id or ())
    if options.json:
        print(json.dumps(head))
    else:
        print(f"{table(head)}\n{RunFolder.of(config).attributions}")
    return 0
