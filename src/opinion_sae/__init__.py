"""Opinion SAE: steer a language model's survey answers with offsets to SAE latents.

The names in `__all__` are the front door. They are imported when first used, so `import opinion_sae` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opinion_sae.delta.files import load_offset as load_offset
    from opinion_sae.delta.offsets import GroupDelta as GroupDelta
    from opinion_sae.model.answers import AnswerPath as AnswerPath
    from opinion_sae.model.language_model import load_language_model as load_language_model
    from opinion_sae.sae.autoencoder import load_sae as load_sae
    from opinion_sae.sae.train import train_sae as train_sae
    from opinion_sae.score.metrics import score as score
    from opinion_sae.survey.load import load_survey as load_survey
    from opinion_sae.use.fitting import fit_delta as fit_delta
    from opinion_sae.use.steering import steer as steer

# Threads of torch that wait for others sleep. By default they spin, which next to one other busy process makes a fit
# twenty times slower, and alone only a tenth faster. Read when torch is loaded, which importing this never does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Matrix products add up in an order that does not hang on the number of threads, at the same speed.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

PLACES = {  # name -> its module
    "load_survey": "opinion_sae.survey.load",
    "load_language_model": "opinion_sae.model.language_model",
    "AnswerPath": "opinion_sae.model.answers",
    "load_sae": "opinion_sae.sae.autoencoder",
    "train_sae": "opinion_sae.sae.train",
    "fit_delta": "opinion_sae.use.fitting",
    "GroupDelta": "opinion_sae.delta.offsets",
    "load_offset": "opinion_sae.delta.files",
    "steer": "opinion_sae.use.steering",
    "score": "opinion_sae.score",  # the room itself, which is called as its function of that name
}

__all__ = [
    "AnswerPath",
    "GroupDelta",
    "fit_delta",
    "load_language_model",
    "load_offset",
    "load_sae",
    "load_survey",
    "score",
    "steer",
    "train_sae",
]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(PLACES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
