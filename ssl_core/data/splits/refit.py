"""Training once more on training and validation images, when everything is chosen (the exception to invariant 2)."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from ssl_core.data.datasets import Split


def with_validation(split: Split) -> Split:
    """The split of a refit: the validation images are labelled training images, and none are left to validate on.

    They are also among the unlabelled images, as all labelled ones are. The hash is another one, made from the split's.
    """
    return dataclasses.replace(
        split,
        labelled=np.sort(np.concatenate([split.labelled, split.valid])),
        valid=split.valid[:0],
        unlabelled=np.sort(np.concatenate([split.unlabelled, split.valid])),
        hash=hashlib.sha256(f"{split.hash}/refit".encode()).hexdigest()[:16],
    )
