"""The picture of ``examples/digits.py``, and some digits as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixer_spec.data import Source

ROWS, COLUMNS = 6, 12
GOOD, BAD, INK = "#1a7f37", "#cf222e", "#24292f"


def draw_answers(digits: Source, model: Path, path: Path) -> None:
    """Draw held-out digits with their predictions: first every mistake, then correct answers.

    Args:
        digits: the examples.
        model: the ONNX file that answers.
        path: of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from mixer_onnxruntime import load_onnx
    from mixer_spec.preprocess import preprocess

    answering = load_onnx(model)
    assert answering.preprocessing is not None
    examples = [digits[number] for number in range(len(digits))]
    labels = np.array([example.label for example in examples])
    pixels = [preprocess(example.image, answering.preprocessing, 8) for example in examples]
    logits = answering.forward(np.stack(pixels))["logits"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    answers = logits.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    right = np.flatnonzero(answers == labels)
    shown = [*wrong, *right][: ROWS * COLUMNS]

    figure = Figure(figsize=(COLUMNS, 1.25 * ROWS + 0.9), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Trained in JAX, run by ONNX Runtime: {len(right)} of {len(answers)} held-out digits "
        "are right",
        fontsize=16,
        color=INK,
        y=0.985,
    )
    figure.text(
        x=0.5,
        y=0.937,
        s="Above each digit: the prediction and its probability. Mistakes are red.",
        ha="center",
        fontsize=11,
        color=INK,
    )
    grid = figure.subplots(ROWS, COLUMNS)
    for axes, index in zip(grid.flat, shown, strict=True):
        good = answers[index] == labels[index]
        text = f"{answers[index]}" if good else f"{answers[index]}, is {labels[index]}"
        axes.imshow(examples[index].image, interpolation="nearest")
        axes.set_title(
            f"{text}  {probabilities[index].max():.0%}",
            fontsize=10 if good else 9,
            color=INK if good else BAD,
            fontweight="normal" if good else "bold",
            pad=4,
        )
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color=GOOD if good else BAD, linewidth=1 if good else 3)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path)


def save_samples(digits: Source, folder: Path) -> Path:
    """Write the first held-out digit of each class as a PNG file; the folder."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    labels = [digits[number].label for number in range(len(digits))]
    for label in range(10):
        Image.fromarray(digits[labels.index(label)].image).save(folder / f"a-{label}.png")
    return folder
