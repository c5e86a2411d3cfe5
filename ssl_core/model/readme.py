"""The page that lies in a model's folder, for whoever receives the model."""

from __future__ import annotations

from ssl_core.model.card import Card, Measured

_RESIZE = {
    "crop": "the short side is fitted and the centre is kept",
    "pad": "the long side is fitted and the rest is filled with {background}",
    "stretch": "both sides are fitted",
}
_CLASSES_SHOWN = 50


def readme(card: Card) -> str:
    """The page, in Markdown."""
    image = card.image
    shown = ", ".join(f"`{name}`" for name in card.classes[:_CLASSES_SHOWN])
    more = len(card.classes) - _CLASSES_SHOWN
    classes = shown + (f" and {more} more (all in `model.json`)" if more > 0 else "")
    parts = [
        f"# An image classifier of {len(card.classes)} classes",
        f"It tells {classes} apart. It was trained with the method `{card.method}` and the network "
        f"`{card.network.name}` by ssl-tune {card.versions.get('ssl-tune', '')}.",
        "## How good it is",
        *_measured(card),
        "These figures hold for images like those that it was trained on. An image of something else gets one of the "
        "classes, too, and may get it with high confidence.",
        "## Use it",
        "    ssl-tune predict MODEL images/ -o predictions.csv",
        "or in Python, which needs torch, torchvision, numpy, pillow, pandas, pydantic, pyyaml, safetensors "
        "and the package `ssl-tune` (`pip install --no-deps` of it is enough):",
        "    import ssl_core\n"
        '    model = ssl_core.load("MODEL")\n'
        '    print(model.predict("images/"))    # a pandas table: file, label, confidence, ...\n'
        "    model.module                       # a torch.nn.Module: pixels (n, S, S, 3) to logits (n, C)",
        "`MODEL` is this folder.",
        "## What it expects",
        f"An image is turned upright, put on {image.background} where it is transparent, made RGB and resized to "
        f"{image.size}x{image.size} pixels with Pillow's bilinear filter: "
        f"{_RESIZE[image.resize].format(background=image.background)}. Grey images with more than 8 bits are scaled "
        f"from {image.bits} bits. Each channel is then (pixel / 255 - mean) / std with mean {_row(image.mean)} and std "
        f"{_row(image.std)}. `ssl-tune` and `ssl_core.load` do all of this.",
        "## Files",
        "- `model.safetensors`: the averaged weights that were evaluated. No code, no pickle.\n"
        "- `model.json`: all of the above for programs, with the whole configuration of the training, versions and "
        "the hash of the split.\n"
        "- `README.md`: this page.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(card: Card) -> list[str]:
    lines = [
        *_line("test images, which nothing was chosen by", card.test),
        *_line("validation images, which the configuration was chosen by", card.validation),
    ]
    if card.calibration is None:
        lines.append("- The confidence is not calibrated: there were no validation images left to do it on.")
    else:
        found = card.calibration
        other = " by the same training without them" if found.fitted_on.endswith("sibling") else ""
        lines.append(
            f"- `confidence` is calibrated (temperature {found.temperature:.3f}, fitted on {found.images} "
            f"validation images{other}): there it is off by {found.expected_calibration_error:.1f} points on average, "
            f"before by {found.expected_calibration_error_raw:.1f} (`confidence_raw`)."
        )
    return ["\n".join(lines)]


def _line(what: str, found: Measured | None) -> list[str]:
    return [] if found is None else [f"- Wrong on {found.error:.2f} % of {found.images} {what}."]


def _row(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
