"""Pictures of what a network sees: image, label and prediction side by side."""

import cv2
import numpy as np

from cropjax.data.labels import IGNORE, LabelSet

GAP = 4  # pixels between pictures
BACKGROUND = 255  # white gaps: black is an ignored pixel, grey the sky of CamVid


def panel(image, label, prediction, labels: LabelSet) -> np.ndarray:
    """Image, label and prediction side by side: uint8 [h, 3 * w + 2 * GAP, 3].

    Args:
      image: uint8 [h, w, 3] RGB.
      label: [h, w] train ids; ignored pixels are black.
      prediction: [h, w] train ids; dimmed where the label is ignored, for those pixels do not count.
      labels: the classes, of which the palette is used.

    Raises:
      ValueError: the shapes differ, or an id is neither a class nor 255.
    """
    if not image.shape == (*label.shape, 3) == (*prediction.shape, 3):
        raise ValueError(
            f"image {image.shape}, label {label.shape} and prediction {prediction.shape} do not show the same pixels"
        )
    predicted = _colour(prediction, labels)
    predicted = np.where((label == IGNORE)[..., None], predicted // 3, predicted)
    gap = np.full((len(image), GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([image, gap, _colour(label, labels), gap, predicted], axis=1)


def contact_sheet(panels) -> np.ndarray:
    """Panels one below the other, uint8 [height, width of the widest, 3]; narrower ones are filled up with white."""
    width = max(panel.shape[1] for panel in panels)
    height = sum(panel.shape[0] + GAP for panel in panels) - GAP
    sheet = np.full((height, width, 3), BACKGROUND, np.uint8)
    top = 0
    for panel in panels:
        h, w, _ = panel.shape
        sheet[top : top + h, :w] = panel
        top += h + GAP
    return sheet


def overlay(image, label, labels: LabelSet) -> np.ndarray:
    """The label's colours over the image, half and half: uint8 [h, w, 3]. Ignored pixels show the image, darkened."""
    colours = _colour(label, labels)
    return ((image.astype(np.uint16) + colours) // 2).astype(np.uint8)


def legend(labels: LabelSet, width: int) -> np.ndarray:
    """The classes' colours and names in lines of `width` pixels: uint8 [height, width, 3]."""
    line, box, font = 24, 16, (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    places, x, y = [], GAP, 0
    for name in labels.names:
        taken = box + 2 * GAP + cv2.getTextSize(name, *font, 1)[0][0] + 4 * GAP
        if x > GAP and x + taken > width:
            x, y = GAP, y + line
        places.append((x, y))
        x += taken
    image = np.full((y + line, width, 3), BACKGROUND, np.uint8)
    for (x, y), name, colour in zip(places, labels.names, labels.palette, strict=True):
        image[y + GAP : y + GAP + box, x : x + box] = colour
        cv2.putText(image, name, (x + box + 2 * GAP, y + box), *font, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def _colour(ids, labels):
    """[h, w] train ids -> uint8 [h, w, 3]."""
    ids = np.asarray(ids)
    if unknown := set(np.unique(ids).tolist()) - {*range(labels.num_classes), IGNORE}:
        raise ValueError(
            f"ids {sorted(unknown)} are neither one of the {labels.num_classes} classes nor {IGNORE} (ignore)"
        )
    palette = np.zeros((256, 3), np.uint8)
    palette[: labels.num_classes] = labels.palette
    return palette[ids]
