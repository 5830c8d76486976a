"""How close answers are to people's: measures, bootstrap over questions and seeds, tables, tests of claims, intervals
of predicted shares (`coverage.py`); and what each method is called (`names.py`).

Knows surveys and arrays of log p; no model. Imports from the ground and `survey`.

The room can be called: `opinion_sae.score(survey, log_probs)` is `opinion_sae.score.metrics.score`, since the front
door has a function of the room's name.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from opinion_sae.score.metrics import score

        return score(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
