"""What a graph can say beside its logits: probabilities, and the name of the most probable class."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from mixer_spec.errors import InputError

from .onnx_graph import Drawing


def draw_answers(
    drawing: Drawing, logits: ir.Value, labels: Sequence[str] | None
) -> list[ir.Value]:
    """The outputs that the form asks for: ``probabilities [batch, class]``, ``class_name [batch]``.

    Raises:
        InputError: if class names are asked for and there are none.
    """
    outputs = []
    if drawing.form.probabilities:
        found = drawing.op("Softmax", logits, name="/probabilities/Softmax", axis=-1)
        outputs.append(_named(found, "probabilities", ir.DataType.FLOAT, logits.shape))
    if drawing.form.class_names:
        if labels is None:
            raise InputError(
                "ONNX export",
                "class names need labels; expected one for each logit, got none; "
                "do `mixer-spec convert FILE LABELLED.safetensors --labels NAMES` first",
            )
        best = drawing.op("ArgMax", logits, name="/class_name/ArgMax", axis=-1, keepdims=0)
        name = "/class_name/labels"
        strings = ir.StringTensor(
            [label.encode() for label in labels], shape=ir.Shape([len(labels)])
        )
        words = drawing.initializers[name] = ir.val(name, const_value=strings)
        found = drawing.op("Gather", words, best, name="/class_name/Gather", axis=0)
        outputs.append(_named(found, "class_name", ir.DataType.STRING, ir.Shape(("batch",))))
    return outputs


def _named(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    value.name, value.dtype, value.shape = name, dtype, shape
    return value
