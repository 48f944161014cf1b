"""What start weights are, wherever they come from."""

from dataclasses import dataclass

import numpy as np


class WeightsError(Exception):
    """The file holds no weights that can start the network; says what was found and what was expected."""


@dataclass(frozen=True)
class StartWeights:
    """Where training starts: `source` for the record, `sha256` of the file (empty for none), tensors by name.

    Names tell the layout: torch's have dots (``features.conv0.weight``, torch's order of axes), Keras's a slash
    (``conv1_conv/0``: layer, index of the variable, Keras's order of axes), and those of a run or a model package are
    numbers (``0000``, the order of the model's weights). `findings` names the columns of the tensors ``scores/0`` and
    ``scores/1``, where they are known.
    """

    source: str
    sha256: str
    tensors: dict[str, np.ndarray]
    findings: tuple[str, ...] = ()
