"""One training run of semi-supervised image classification, from a configuration to a result, and the model of it.

    import ssl_core
    result = ssl_core.train({"method": "pseudo_label", "dataset": "digits", "epochs": 5})
    print(result.val_error)
    model = ssl_core.load("my-model")   # a folder that `ssl-tune train --final --model` made
    print(model.predict("images/"))     # a pandas table

Names are loaded at first use, so that reading a configuration does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_core.model.model import Model as Model
    from ssl_core.model.model import load as load
    from ssl_core.schema import RunConfig as RunConfig
    from ssl_core.system.errors import ConfigError as ConfigError
    from ssl_core.system.errors import MemoryExhaustedError as MemoryExhaustedError
    from ssl_core.system.errors import NonFiniteError as NonFiniteError
    from ssl_core.system.version import __version__ as __version__
    from ssl_core.training.result import Result as Result
    from ssl_core.training.result import train as train

_HOMES = {
    "__version__": "ssl_core.system.version",
    "RunConfig": "ssl_core.schema",
    "ConfigError": "ssl_core.system.errors",
    "MemoryExhaustedError": "ssl_core.system.errors",
    "Model": "ssl_core.model.model",
    "NonFiniteError": "ssl_core.system.errors",
    "Result": "ssl_core.training.result",
    "load": "ssl_core.model.model",
    "train": "ssl_core.training.result",
}
__all__ = [
    "ConfigError",
    "MemoryExhaustedError",
    "Model",
    "NonFiniteError",
    "Result",
    "RunConfig",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
