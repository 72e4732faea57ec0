import hashlib

import imagehash
import numpy as np
import pytest
from PIL import Image

from pipelines.curation.hashes import DECIDED_BITS, content_hash, phash, pixel_hash
from tests.pipelines.curation.cases import real


def picture(seed: int, height: int = 61, width: int = 83) -> np.ndarray:
    """Smooth colour noise, every pixel different, not square."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def reference(image: np.ndarray) -> int:
    return int(str(imagehash.phash(Image.fromarray(image))), 16)


def test_phash_is_the_one_of_imagehash_bit_by_bit() -> None:
    for seed in range(200):
        image = picture(seed, 40 + seed, 300 - seed)
        assert phash(image).bits == reference(image)


def test_phash_of_grey_is_that_of_its_rgb() -> None:
    grey = np.asarray(Image.fromarray(picture(3)).convert("L"))
    assert phash(grey) == phash(np.repeat(grey[..., None], 3, axis=2))


def test_phash_of_real_photographs_agrees_and_survives_reencoding() -> None:
    photos = sorted(real("dedup/imagededup/base_images").glob("*.jpg"))
    distances = []
    for path in photos:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        ours = phash(np.asarray(image))
        assert ours.bits == int(str(imagehash.phash(image)), 16)
        assert ours.decided >= 56
        halved = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        distances.append((ours.bits ^ phash(np.asarray(halved)).bits).bit_count())
    assert len(photos) == 10
    assert max(distances) <= 2, distances


def test_phash_agrees_with_imagehash_on_pictures_without_information() -> None:
    flat = np.full((30, 50, 3), 77, np.uint8)
    ramp = np.broadcast_to(np.arange(50, dtype=np.uint8)[None, :, None], (30, 50, 3)).copy()
    for image in (flat, ramp):
        assert phash(image).low_information
    assert phash(flat).decided <= 1


def test_low_information_is_flat_or_symmetric_and_nothing_else() -> None:
    image = picture(5)
    assert not phash(image).low_information
    assert phash(image).decided > DECIDED_BITS + 10
    mirrored = np.concatenate([image, image[:, ::-1]], axis=1)
    assert phash(mirrored).low_information, "odd columns of coefficients are exactly zero"


def test_low_information_of_real_images() -> None:
    folder = real("quality/cleanvision")
    flagged = set()
    for path in folder.rglob("*.*"):
        if path.suffix.lower() in {".png", ".jpg", ".jpeg"}:
            with Image.open(path) as opened:
                opened.draft("RGB", (512, 512))
                if phash(np.asarray(opened.convert("RGB"))).low_information:
                    flagged.add(path.name)
    assert flagged == {"image_417.png", "image_591.png"}


def test_bits_lie_row_by_row_lowest_frequency_first() -> None:
    rows = np.arange(64)[:, None, None] / 63
    waves = 128 + 60 * np.cos(np.pi * 3 * rows) + np.zeros((64, 90, 3))
    assert phash(waves.astype(np.uint8)).bits >> (63 - 3 * 8) & 1 == 1
    assert phash(waves.astype(np.uint8)).bits >> (63 - 3) & 1 == 0


@pytest.mark.parametrize("turn", [lambda image: image[::-1], lambda image: image.transpose(1, 0, 2)])
def test_pixel_hash_knows_orientation_and_shape(turn) -> None:
    image = picture(1)
    assert pixel_hash(image) == pixel_hash(image.copy())
    assert pixel_hash(turn(image)) != pixel_hash(image)
    assert pixel_hash(np.ascontiguousarray(turn(image))) == pixel_hash(turn(image))


def test_pixel_hash_tells_shapes_of_equal_bytes_apart() -> None:
    image = picture(1)
    assert pixel_hash(image) != pixel_hash(image.reshape(83, 61, 3))
    changed = image.copy()
    changed[-1, -1, 2] ^= 1
    assert pixel_hash(changed) != pixel_hash(image)


def test_content_hash_is_of_the_bytes() -> None:
    assert len(content_hash(b"")) == 16
    assert content_hash(b"a").hex() == hashlib.sha256(b"a").hexdigest()[:32]
    assert content_hash(b"a") != content_hash(b"b")
