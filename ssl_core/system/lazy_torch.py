"""torch, loaded at first use.

A configuration is checked, and a study's folder written, before torch is loaded: its import takes seconds, and a study
that is killed in those seconds must be resumable. So the files that declare a method's configuration import torch from
here.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _LazyModule(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self.__name__), name)

    torch = _LazyModule("torch")
