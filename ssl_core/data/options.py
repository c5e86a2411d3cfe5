"""How images become arrays and parts: the fields of the configuration's `data` section that the loaders need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssl_core.system.errors import ConfigError

MIN_SIDE, MAX_SIDE = 8, 512
DEFAULT_TEST_SHARE = 0.2
"""Share of the labelled images of a class that are test images where there is no test/.

The error of n test images is known to sqrt(p (1 - p) / n). At an error p of 20 % a fifth of 5,000 labels gives
1,000 test images and 1.3 points, a fifth of 500 gives 4 points, a fifth of 50 gives 13 points. A smaller share
would save labels that train little (10 % of 500 labels are 50 images) and measure worse; a larger one takes
labels from a model that has few. So 20 %, the usual share, and no fewer than one image a class.
"""
DEFAULT_VALID_SHARE = 0.2
"""Share of the remaining labelled images of a class that are validation images where there is no valid/.

The same reasoning. The validation set may be noisier than the test set, since a search compares
configurations on the same images; it must never be larger than the labelled set, which 20 % is not.
"""


@dataclass(frozen=True)
class Skipped:
    """A damaged file that was left out: its path, relative to the data set, and the sha256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Options:
    """How the images of a folder or table are read. Data sets that come as arrays use `image_size` and `flip`.

    Attributes:
        image_size: side in pixels, 8 to 512; None: the images' own, or where they differ a default.
        resize: what becomes of an image that is not square: its centre, the whole of it on the background,
            or the whole of it stretched.
        background: colour below transparent pixels and beside padded images.
        flip: whether a mirrored image keeps its label; "auto": yes, except for digits.
        on_damaged: whether a file that cannot be decoded is an error, or is left out and recorded. Damaged
            validation and test images are always an error.
        skipped: of an earlier run: exactly these files are left out, and any other damaged file is an error.
        group_by: "folder": the images of one folder inside a class folder belong together.
        test_share: of the labelled images of each class, where there is no test part.
    """

    image_size: int | None = None
    resize: Literal["crop", "pad", "stretch"] = "crop"
    background: str = "white"
    flip: Literal["auto"] | bool = "auto"
    on_damaged: Literal["refuse", "skip"] = "refuse"
    skipped: tuple[Skipped, ...] | None = None
    group_by: Literal["none", "folder"] = "none"
    test_share: float = DEFAULT_TEST_SHARE

    def __post_init__(self) -> None:
        if self.image_size is not None and not MIN_SIDE <= self.image_size <= MAX_SIDE:
            raise ConfigError(
                f"data.image_size is {self.image_size}. Accepted: {MIN_SIDE} to {MAX_SIDE} pixels."
            )
        if not 0 < self.test_share < 1:
            raise ConfigError(
                f"data.test_share = {self.test_share}: more than 0 and less than 1 is expected, for example "
                f"{DEFAULT_TEST_SHARE}."
            )

    def flips(self, default: bool) -> bool:
        """Whether images are mirrored, for a data set whose own answer is `default`."""
        return default if self.flip == "auto" else self.flip


def valid_of_share(share: float, number: int, name: str) -> int:
    """How many validation images a share makes of a class's labelled images, at least one.

    Args:
        share: `data.valid_share`.
        number: labelled images of the class that are not test images.
        name: of the class, for the message.

    Raises:
        ConfigError: none is left for training.
    """
    count = max(1, round(share * number))
    if count >= number:
        raise ConfigError(
            f"data.valid_share = {share} takes {count} of the {number} labelled images of class {name!r} and leaves "
            f"none for training. Lower it, or label more images of {name!r}."
        )
    return count
