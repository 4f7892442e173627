"""Run a recipe in which an encoder layer sums the gradients of its input by itself.

    python tests/helpers/sum_within_layers.py SCRIPT ...

Layers in shards do so: autograd sees a function of FSDP at their input. Without one, the gradient
of what others read too (the weighted sum of layers) is summed in another order. The difference is
one of rounding, but Adam turns it into one of 1e-5 where a gradient is almost zero.
"""

import os
import runpy
import sys

from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer


def patch():
    """Give the input of each layer a node of its own."""
    forward = ConformerEncoderLayer.forward
    ConformerEncoderLayer.forward = lambda layer, x, *args, **kwargs: forward(
        layer, x.view_as(x), *args, **kwargs
    )


if __name__ == "__main__":
    patch()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
