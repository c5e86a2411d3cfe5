"""Write three handwritten digits that no model was trained on as PNG files, and show them: images to try a model on.

python docs/examples/three_digits.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from ssl_core.data.builtin import read_digits

SHADES = " ░▒▓█"


def main(folder: Path) -> None:
    """Write the first three images of the test part into a folder, each named after what it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = read_digits("test", 16)
    for place, (image, label) in enumerate(zip(images[:3], labels[:3], strict=True)):
        Image.fromarray(image).save(folder / f"{'abc'[place]}-is-{label}.png")
    for row in range(0, 16, 2):  # a character is twice as high as it is wide
        lines = ("".join(SHADES[int(value) * 5 // 256] for value in image[row, :, 0]) for image in images[:3])
        sys.stdout.write("   ".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
