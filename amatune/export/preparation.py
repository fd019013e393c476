"""What stands before a scorer in an ONNX model: from pictures of any size to those it takes.

Steps 2 and 3 of the geometry rule (`amatune.data.pictures`), in the whole numbers of
`amatune.data.resizing`, so that the very bytes come out that training saw. Written as ONNX's text,
since the weights of a resizing depend on the size of the pictures, which the graph learns when it
runs.
"""

from typing import Any

from amatune.config import ImageShape
from amatune.data.resizing import ONE

PICTURES = "pictures"  # name of the input
MAP = "map"  # name of the output that says where pictures look anomalous
BATCH, HEIGHT, WIDTH, CHANNELS = "batch", "height", "width", "channels"  # names of free axes
FITTED = "fitted"  # what the preparation gives: uint8 (batch, C, H, W)


def preparation(image_shape: ImageShape, opset: int, ir_version: int) -> Any:
    """An ONNX model from `PICTURES`, uint8 (batch, height, width, channels) with 1 or 3 channels,
    to `FITTED`, uint8 (batch, *image_shape). With any other number of channels it fails."""
    import onnx.parser

    channels, height, width = image_shape
    given = f"uint8[{BATCH}, {HEIGHT}, {WIDTH}, {CHANNELS}] {PICTURES}"
    fitted = f"uint8[{BATCH}, {channels}, {height}, {width}] {FITTED}"
    text = f"""
    <ir_version: {ir_version}, opset_import: ["": {opset}]>
    preparation ({given}) => ({fitted})
    {{
        prepare_none = Constant <value_int = 0> ()
        prepare_one = Constant <value_int = 1> ()
        prepare_two = Constant <value_int = 2> ()
        prepare_columns = Constant <value_ints = [1]> ()
        prepare_digit = Constant <value_int = 256> ()
        prepare_digits = Constant <value_int = 512> ()
        prepare_half = Constant <value_float = {float(ONE // 2)}> ()
        prepare_share = Constant <value_float = {1 / ONE!r}> ()
        prepare_values = Cast <to = 1> ({PICTURES})
        {_LUMA if channels == 1 else _COLOUR}
        {_weights("x", axis=2, after=width)}
        {_weights("y", axis=1, after=height)}
        prepare_x_turned = Transpose <perm = [1, 0]> (prepare_x_weights)
        prepare_x_sums = MatMul (prepare_planes, prepare_x_turned)
        {_rounded("x")}
        prepare_y_sums = MatMul (prepare_y_weights, prepare_x_bytes)
        {_rounded("y")}
        {_GREY_TO_COLOUR if channels == 3 else ""}
        {FITTED} = Cast <to = 2> ({"prepare_repeated" if channels == 3 else "prepare_y_bytes"})
    }}
    """
    return onnx.parser.parse_model(text)


# Grey pictures have one weight, coloured ones three: others fit neither, so that nothing else is
# taken for a picture.
_LUMA = """
        prepare_depth = Shape <start = 3, end = 4> (pictures)
        prepare_is_grey = Equal (prepare_depth, prepare_columns)
        prepare_luma = Constant <value_floats = [65536.0, 19595.0, 38470.0, 7471.0]> ()
        prepare_zeros = Constant <value_ints = [0]> ()
        prepare_fours = Constant <value_ints = [4]> ()
        prepare_first = Where (prepare_is_grey, prepare_zeros, prepare_columns)
        prepare_last = Where (prepare_is_grey, prepare_columns, prepare_fours)
        prepare_parts = Slice (prepare_luma, prepare_first, prepare_last)
        prepare_weighted = Mul (prepare_values, prepare_parts)
        prepare_sides = Constant <value_ints = [3]> ()
        prepare_grey_sums = ReduceSum <keepdims = 0> (prepare_weighted, prepare_sides)
        prepare_grey_raised = Add (prepare_grey_sums, prepare_half)
        prepare_grey_shares = Mul (prepare_grey_raised, prepare_share)
        prepare_grey = Floor (prepare_grey_shares)
        prepare_planes = Unsqueeze (prepare_grey, prepare_columns)
"""
_COLOUR = """
        prepare_planes = Transpose <perm = [0, 3, 1, 2]> (prepare_values)
"""
_GREY_TO_COLOUR = """
        prepare_three = Constant <value_ints = [1, 3, 1, 1]> ()
        prepare_repeated = Expand (prepare_y_bytes, prepare_three)
"""


def _weights(name: str, axis: int, after: int) -> str:
    """`resizing.weights`: (after, before), `before` being the size of an axis of the pictures."""
    centres = ", ".join(str(2 * pixel + 1) for pixel in range(after))
    return f"""
        prepare_{name}_shape = Shape <start = {axis}, end = {axis + 1}> ({PICTURES})
        prepare_{name}_before = Squeeze (prepare_{name}_shape)
        prepare_{name}_after = Constant <value_int = {after}> ()
        prepare_{name}_places = Range (prepare_none, prepare_{name}_before, prepare_one)
        prepare_{name}_doubled = Mul (prepare_{name}_places, prepare_two)
        prepare_{name}_odd = Add (prepare_{name}_doubled, prepare_one)
        prepare_{name}_there = Mul (prepare_{name}_odd, prepare_{name}_after)
        prepare_{name}_pixels = Constant <value_ints = [{centres}]> ()
        prepare_{name}_own = Mul (prepare_{name}_pixels, prepare_{name}_before)
        prepare_{name}_here = Unsqueeze (prepare_{name}_own, prepare_columns)
        prepare_{name}_apart = Sub (prepare_{name}_there, prepare_{name}_here)
        prepare_{name}_gaps = Abs (prepare_{name}_apart)
        prepare_{name}_larger = Max (prepare_{name}_before, prepare_{name}_after)
        prepare_{name}_reach = Mul (prepare_{name}_larger, prepare_two)
        prepare_{name}_above = Sub (prepare_{name}_reach, prepare_{name}_gaps)
        prepare_{name}_heights = Max (prepare_{name}_above, prepare_none)
        prepare_{name}_with = CumSum (prepare_{name}_heights, prepare_one)
        prepare_{name}_without = Sub (prepare_{name}_with, prepare_{name}_heights)
        prepare_{name}_total = ReduceSum <keepdims = 1> (prepare_{name}_heights, prepare_columns)
        prepare_{name}_divisor = Mul (prepare_{name}_total, prepare_two)
        {_shares(f"{name}_with")}
        {_shares(f"{name}_without")}
        prepare_{name}_differences = Sub (prepare_{name}_with_shares, prepare_{name}_without_shares)
        prepare_{name}_weights = Cast <to = 1> (prepare_{name}_differences)
    """


def _shares(name: str) -> str:
    # Of 256 * 256, digit by digit: engines that compute with 32 bits keep all of them.
    total = f"prepare_{name[0]}_total"
    return f"""
        prepare_{name}_more = Mul (prepare_{name}, prepare_digit)
        prepare_{name}_high = Div (prepare_{name}_more, {total})
        prepare_{name}_taken = Mul (prepare_{name}_high, {total})
        prepare_{name}_rest = Sub (prepare_{name}_more, prepare_{name}_taken)
        prepare_{name}_doubled = Mul (prepare_{name}_rest, prepare_digits)
        prepare_{name}_raised = Add (prepare_{name}_doubled, {total})
        prepare_{name}_low = Div (prepare_{name}_raised, prepare_{name[0]}_divisor)
        prepare_{name}_shifted = Mul (prepare_{name}_high, prepare_digit)
        prepare_{name}_shares = Add (prepare_{name}_shifted, prepare_{name}_low)
    """


def _rounded(name: str) -> str:
    return f"""
        prepare_{name}_raised = Add (prepare_{name}_sums, prepare_half)
        prepare_{name}_bytes_and_parts = Mul (prepare_{name}_raised, prepare_share)
        prepare_{name}_bytes = Floor (prepare_{name}_bytes_and_parts)
    """
