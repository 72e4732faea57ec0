"""What callers hand over is brought to pixels, or refused with a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from llava_core.errors import ImageReason, ImageRefused
from llava_core.media_inputs import load_image
from tests.llava_core.image_files import encode, ramp


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_pil_image_that_was_only_opened(mode: str) -> None:
    image = Image.fromarray(ramp(60, 90)).convert(mode)
    file = encode(image, "PNG")
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(file))), np.asarray(image.convert("RGB")))
    with pytest.raises(ImageRefused, match="PNG") as refused:
        load_image(Image.open(io.BytesIO(file[: len(file) // 2])))
    assert refused.value.reason is ImageReason.TRUNCATED
