from dataclasses import replace

from sumzero.config import Model, Scratch
from sumzero.pipeline import prepare
from sumzero.runfolder import RunFolder

SHAPE = {"vocab_size": 300, "num_layers": 1, "hidden_size": 32, "intermediate_size": 32}


def test_a_model_is_made_anew_for_another_shape(prepared, tmp_path):
    settings = prepared.settings(tmp_path, [{"document": "A cat sat.", "target": "A cat."}])

    def made(**shape):
        model = Model(path="scratch", scratch=Scratch(**SHAPE | shape))
        config = replace(settings, model=model)
        prepare(config)
        return (RunFolder.of(config).scratch_model / "model.safetensors").stat()

    first = made()
    assert made().st_mtime_ns == first.st_mtime_ns
    assert made(intermediate_size=64).st_size > first.st_size
