"""Batch renormalization in evaluation mode: a scale and a shift of each feature, part of the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sb3_rlx2.engine import programs
from sb3_rlx2.export.sparse_policy import Array, Linear


class Affine(NamedTuple):
    """``y = scale x + shift``, feature by feature.

    :param source: number of the value x
    :param scale: [n], float64
    :param shift: [n], float64
    """

    source: int
    scale: Array
    shift: Array


def affine_of(operation: programs.Operation, before: Mapping[int, Affine]) -> Affine:
    """What a batch renormalization does in evaluation mode.

    :param operation: of kind ``"batch_renorm"``
    :param before: values that are such already
    """
    module: Any = operation.module
    mean, variance, weight, bias = (
        tensor.detach().cpu().double().numpy() for tensor in (module.ra_mean, module.ra_var, module.scale, module.bias)
    )
    scale = weight / np.sqrt(variance + module.eps)
    shift = bias - mean * scale
    source = operation.inputs[0]
    if source in before:
        given = before[source]
        return Affine(given.source, scale * given.scale, scale * given.shift + shift)
    return Affine(source, scale, shift)


def reads_affine(layer: Linear, affine: Affine) -> Linear:
    """The layer that makes of x what a layer makes of ``scale x + shift``.

    :param layer: the layer
    :param affine: what it reads
    """
    values = layer.values.astype(np.float64)
    rows = layer.rows
    brought = np.bincount(rows, values * affine.shift[layer.columns], minlength=layer.n_out)
    return replace(
        layer,
        inputs=(affine.source,),
        values=(values * affine.scale[layer.columns]).astype(np.float32),
        bias=(layer.bias + brought).astype(np.float32),
    )
