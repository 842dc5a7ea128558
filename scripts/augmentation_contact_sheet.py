"""Draw what the augmentations do: one kind per row, one synthetic face per column.

python scripts/augmentation_contact_sheet.py --target docs/pictures/augmentations.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from frtrain.commands.composition import group_defaults
from frtrain.data.augmentation import AUGMENTATIONS, SampleRandom
from frtrain.data.device_augmentation import DEVICE_AUGMENTATIONS
from frtrain.data.images import write_png_or_jpeg
from frtrain.data.order import sample_words
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_crop

LABEL_HEIGHT = 14
ON_DEVICE = {
    "shift": 0.08,
    "scale": 0.15,
    "rotation_degrees": 15,
    "light": 0.4,
    "low_resolution": 0.4,
    "occlusion": 0.4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", type=Path, required=True, help="picture to write (.png or .jpg)")
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seed, count = arguments.seed, arguments.faces
    crops = np.stack([render_crop(draw_person(seed, face), draw_conditions(seed, face, 0)) for face in range(count)])
    words = sample_words(seed, torch.zeros(count, dtype=torch.int64), torch.arange(count))
    rows = {"as they are": crops, "augment=jitter": augmented("jitter", crops, words)}
    for change in ("crop", "low_resolution", "photometric", "occlusion"):
        rows[f"augment=face augment.{change}=1"] = augmented("face", crops, words, **{"flip": 0.0, change: 1.0})
    rows["device_augment=face, all of it"] = on_device(crops, words)
    sheet = np.concatenate([labelled(name, images) for name, images in rows.items()], axis=0)
    write_png_or_jpeg(arguments.target, sheet, quality=88)


def augmented(name: str, crops: NDArray[np.uint8], words: torch.Tensor, **parameters: float) -> NDArray[np.uint8]:
    augmentation = AUGMENTATIONS.build({**group_defaults("augment", name), **parameters})
    changed = np.empty_like(crops)
    for crop, word, out in zip(crops, words.tolist(), changed, strict=True):
        augmentation(crop, SampleRandom(word), out)
    return changed


def on_device(crops: NDArray[np.uint8], words: torch.Tensor) -> NDArray[np.uint8]:
    augmentation = DEVICE_AUGMENTATIONS.build({**group_defaults("device_augment", "face"), **ON_DEVICE})
    pixels = augmentation(torch.from_numpy(crops).permute(0, 3, 1, 2), words)
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def labelled(text: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images `uint8 [n, H, W, 3]` side by side under a line of text."""
    row = np.concatenate(list(images), axis=1)
    label = Image.new("RGB", (row.shape[1], LABEL_HEIGHT), "white")
    ImageDraw.Draw(label).text((4, 1), text, fill="black")
    return np.concatenate([np.asarray(label), row], axis=0)


if __name__ == "__main__":
    main()
