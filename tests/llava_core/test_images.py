"""`decode_image` on what it accepts: each row of the bad-input catalogue that ends in pixels, and their values."""

import base64
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageCms, ImageOps, features

from llava_core.errors import ImageReason, ImageRefused
from llava_core.geometry import Size
from llava_core.images import decode_base64_image, decode_image, read_header
from tests.llava_core.image_files import encode, exif, gif_frame_at, png, png_chunk, ramp, with_segment

RAMP = ramp()


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    image = Image.fromarray(RAMP).quantize(200).convert("RGB") if kind == "GIF" else Image.fromarray(RAMP)
    decoded = decode_image(encode(image, kind))
    assert decoded.dtype == np.uint8 and decoded.flags.writeable and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, np.asarray(image))
    assert read_header(encode(image, kind)).size == Size(24, 40)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp_and_avif(kind: str, lossless: bool) -> None:
    if not features.check(kind.lower()):
        pytest.skip(f"this Pillow is built without {kind}")
    nearly = {"quality": 100 if lossless else 90, "subsampling": "4:4:4"}
    settings = {"lossless": lossless} if kind == "WEBP" else nearly
    file = encode(RAMP, kind, **settings)
    assert read_header(file).size == Size(24, 40)
    np.testing.assert_array_equal(decode_image(file), np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))
    assert not lossless or levels_apart(decode_image(file), RAMP) <= 3


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(24, 40), (203, 131)])
def test_jpeg_pixels_are_pillows(subsampling: int, progressive: bool, size: tuple[int, int]) -> None:
    """Measured: 0 levels apart; libjpeg's fast DCT and upsampling would be up to 7."""
    file = encode(ramp(*size), "JPEG", subsampling=subsampling, progressive=progressive, quality=85)
    assert levels_apart(decode_image(file), np.asarray(Image.open(io.BytesIO(file)))) <= 1


def test_bytes_after_the_end_and_a_zip_behind_it_are_ignored() -> None:
    file = encode(RAMP, "JPEG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("x.txt", "x" * 100)
    expected = decode_image(file)
    np.testing.assert_array_equal(decode_image(file + b"trailing"), expected)
    np.testing.assert_array_equal(decode_image(file + archive.getvalue()), expected)


def test_bytes_between_picture_and_end_marker_are_ignored() -> None:
    file = encode(RAMP, "JPEG")
    np.testing.assert_array_equal(decode_image(file[:-2] + bytes(5) + file[-2:]), decode_image(file))


def test_bytes_between_segments_are_ignored() -> None:
    file = encode(RAMP, "JPEG")
    at = file.index(b"\xff\xdb")
    np.testing.assert_array_equal(decode_image(file[:at] + bytes(4) + file[at:]), decode_image(file))


def test_cmyk_and_adobe_inverted_cmyk() -> None:
    """By hand: full cyan is (0, 255, 255), half black is (127, 127, 127); Adobe's files store them inverted."""
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, :16, 0], inks[:, 16:, 3] = 255, 128
    tiff = decode_image(encode(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert tiff[3, 5].tolist() == [0, 255, 255] and tiff[9, 30].tolist() == [127, 127, 127]
    jpeg = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=95)
    assert b"Adobe" in jpeg and read_header(jpeg).channels == 4
    assert levels_apart(decode_image(jpeg)[4:12, 4:12], tiff[4:12, 4:12]) <= 3
    assert levels_apart(decode_image(jpeg)[4:12, 20:28], tiff[4:12, 20:28]) <= 3


def test_ycck_jpeg() -> None:
    """The same Adobe file, said to be YCCK (transform 2), is read through YCbCr: other colours, no refusal."""
    inks = np.full((16, 32, 4), (200, 90, 30, 0), dtype=np.uint8)
    jpeg = encode(Image.fromarray(inks, "CMYK"), "JPEG")
    at = jpeg.index(b"Adobe") + 11
    ycck = jpeg[:at] + b"\x02" + jpeg[at + 1 :]
    luma, cb, cr = 255 - 200, 255 - 90 - 128, 255 - 30 - 128  # stored inverted: 255 minus the inks
    seen = (luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb)  # = (191.0, -27.0, 120.6)
    inks_meant = [max(0, min(255, round(value))) for value in seen]
    assert np.abs(decode_image(ycck)[8, 16].astype(int) - [255 - ink for ink in inks_meant]).max() <= 2


def test_grey_one_bit_and_interlaced() -> None:
    grey = RAMP[..., 1]
    np.testing.assert_array_equal(decode_image(encode(grey, "PNG")), np.stack([grey] * 3, -1))
    jpeg = encode(grey, "JPEG", quality=100)
    assert levels_apart(decode_image(jpeg), np.stack([grey] * 3, -1)) <= 2
    bits = Image.fromarray(RAMP).convert("1")
    np.testing.assert_array_equal(decode_image(encode(bits, "PNG")), np.asarray(bits.convert("RGB")))
    # Adam7 of 1×1 blocks: a 2×2 picture has passes 1 (0,0), 6 (0,1), 7 (1,0 and 1,1).
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    rows = bytes([0, 10]) + bytes([0, 20]) + bytes([0, 30, 40])
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    assert decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))[..., 0].tolist() == [[10, 20], [30, 40]]


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")])
def test_transparency_is_laid_on_white(kind: str, mode: str) -> None:
    """By hand: alpha 0 → 255; alpha 51 of 100 → 100·0.2 + 255·0.8 = 224; alpha 255 → 100."""
    pixels = np.full((20, 30, 4), 100, dtype=np.uint8)
    pixels[..., 3] = np.array([0, 51, 255])[np.arange(30) // 10]
    image = Image.fromarray(pixels).convert(mode)
    decoded = decode_image(encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    for column, expected in ((4, 255), (15, 224), (26, 100)):
        assert decoded[7, column].tolist() == [expected] * 3


def test_palette_and_transparent_palette_entry() -> None:
    image = Image.new("P", (5, 3))
    image.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 90])
    image.putdata([0, 1, 2, 0, 1] * 3)
    expected = [[255, 0, 0], [0, 200, 0], [0, 0, 90], [255, 0, 0], [0, 200, 0]]
    assert decode_image(encode(image, "PNG"))[1].tolist() == expected
    assert decode_image(encode(image, "GIF"))[1].tolist() == expected
    white = [[255] * 3 if colour == [0, 200, 0] else colour for colour in expected]
    assert decode_image(encode(image, "PNG", transparency=1))[1].tolist() == white
    assert decode_image(encode(image, "GIF", transparency=1))[1].tolist() == white
    half = decode_image(encode(image, "PNG", transparency=bytes([255, 0, 51])))[1].tolist()
    assert half[1] == [255] * 3 and half[2] == [204, 204, 222]


def test_transparent_colour_of_rgb_and_grey() -> None:
    rows = bytes([0, 9, 8, 7, 50, 60, 70]) + bytes([0, 1, 2, 3, 9, 8, 7])
    file = png(2, 2, 8, 2, rows, png_chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7)))
    assert decode_image(file).tolist() == [[[255] * 3, [50, 60, 70]], [[1, 2, 3], [255] * 3]]
    grey = png(2, 2, 8, 0, bytes([0, 5, 6, 0, 7, 5]), png_chunk(b"tRNS", struct.pack(">H", 5)))
    assert decode_image(grey)[..., 2].tolist() == [[255, 6], [7, 255]]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 256, 1000], [25700, 40000, 65534, 65535]], dtype=np.uint16)
    expected = [[0, 0, 1, 4], [100, 156, 255, 255]]  # v·255/65535, rounded
    for kind in ("PNG", "TIFF"):
        assert decode_image(encode(Image.fromarray(values), kind))[..., 0].tolist() == expected
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    transparent = png(2, 4, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 1000)))
    assert decode_image(transparent)[..., 1].tolist() == [[0, 0, 1, 255], [100, 156, 255, 255]]


def test_16_bit_rgb() -> None:
    values = np.array([[[0, 256, 65535], [25700, 40000, 513]], [[1, 2, 3], [65280, 30000, 20000]]], dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    decoded = decode_image(png(2, 2, 16, 2, rows))
    assert levels_apart(decoded, np.round(values / 257).astype(int)) <= 1


def frames_of(kind: str) -> bytes:
    first, second = Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())
    settings = {"save_all": True, "append_images": [second, first]}
    if kind == "GIF":
        first, settings["append_images"] = first.quantize(128), [second.quantize(128)]
    return encode(first, kind, **settings, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_first_frame_of_animations_and_pages(kind: str) -> None:
    expected = Image.fromarray(RAMP)
    np.testing.assert_array_equal(
        decode_image(frames_of(kind)), np.asarray(expected.quantize(128).convert("RGB") if kind == "GIF" else expected)
    )


def test_a_hundred_thousand_frames_cost_what_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are neither counted nor walked."""
    gif = encode(Image.fromarray(ramp(6, 8)).quantize(8), "GIF")
    many = gif[:-1] + gif[gif_frame_at(gif) : -1] * 100_000 + b";"
    assert len(many) > 2_000_000
    expected = decode_image(gif)
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "n_frames", property(lambda _: pytest.fail("frames were counted")))
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "seek", lambda *_: pytest.fail("frames were walked"))
    np.testing.assert_array_equal(decode_image(many), expected)


def test_mpo_is_a_jpeg() -> None:
    second = Image.fromarray(RAMP[::-1].copy())
    file = encode(RAMP, "MPO", save_all=True, append_images=[second])
    assert read_header(file).format == "JPEG"
    assert levels_apart(decode_image(file), np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))) <= 1


# EXIF's own words: where the stored picture's first row and first column are on the upright one.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_jpeg(orientation: int) -> None:
    """Against hand-made turns of the stored pixels, and against Pillow's own."""
    plain = encode(RAMP, "JPEG", quality=95)
    file = with_segment(plain, 0xE1, exif(orientation))
    decoded = decode_image(file)
    np.testing.assert_array_equal(decoded, UPRIGHT[orientation](decode_image(plain)))
    assert levels_apart(decoded, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))) <= 1
    assert read_header(file).size == decoded.shape[:2] and decoded.flags.c_contiguous


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_of_other_formats(kind: str, orientation: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    entries = Image.Exif()
    entries[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    file = encode(RAMP, kind, exif=entries, **lossless)
    decoded = decode_image(file)
    assert levels_apart(decoded, UPRIGHT[orientation](RAMP)) <= (3 if kind == "AVIF" else 0)
    assert read_header(file).size == decoded.shape[:2]


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_orientation_in_xmp_is_not_read(kind: str, orientation: int) -> None:
    """Programs that turn the pixels and take the tag out leave it behind there, and Pillow would turn them again."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    extra = {"tiffinfo": {700: xmp}} if kind == "TIFF" else {"xmp": xmp, "quality": 100, "subsampling": "4:4:4"}
    file = encode(RAMP, kind, **extra)
    assert xmp in file and read_header(file).size == Size(24, 40)
    assert levels_apart(decode_image(file), RAMP) <= (3 if kind == "AVIF" else 0)


@pytest.mark.parametrize(
    "body",
    [
        exif(0),
        exif(9),
        exif(65535),
        b"Exif\0\0garbage that is not a directory",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x00\0\0\0\x08",  # the next directory is this one
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\0\0\0\x08" + bytes(4),  # GPS, pointing back
    ],
)
def test_senseless_exif_is_ignored(body: bytes) -> None:
    plain = encode(RAMP, "JPEG")
    file = with_segment(plain, 0xE1, body)
    assert read_header(file).orientation == 1
    np.testing.assert_array_equal(decode_image(file), decode_image(plain))


def swapped_profile() -> bytes:
    """A profile that is none: sRGB's with red and blue changed round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_profile_is_applied_and_srgbs_own_changes_nothing(kind: str) -> None:
    """The made-up profile changes red and blue round, so its pixels come out changed round."""
    settings = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    plain = decode_image(encode(RAMP, kind, **settings))
    swapped = decode_image(encode(RAMP, kind, icc_profile=swapped_profile(), **settings))
    assert levels_apart(swapped, plain[..., ::-1]) <= 2
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode_image(encode(RAMP, kind, icc_profile=srgb, **settings)), plain)


def test_profile_in_several_segments_is_put_together_in_order() -> None:
    profile, plain = swapped_profile(), encode(RAMP, "JPEG", quality=95, subsampling=0)
    parts = [b"ICC_PROFILE\0" + bytes([index, 2]) + part for index, part in ((1, profile[:200]), (2, profile[200:]))]
    file = with_segment(with_segment(plain, 0xE2, parts[0]), 0xE2, parts[1])
    assert read_header(file).icc_profile == profile
    assert levels_apart(decode_image(file), decode_image(plain)[..., ::-1]) <= 2


@pytest.mark.parametrize("profile", [b"garbage", swapped_profile()[:300], bytes(128)])
def test_senseless_profile_is_ignored(profile: bytes) -> None:
    for kind in ("JPEG", "PNG"):
        np.testing.assert_array_equal(
            decode_image(encode(RAMP, kind, icc_profile=profile)), decode_image(encode(RAMP, kind))
        )


def test_profile_of_a_transparent_image_leaves_the_white_ground_white() -> None:
    pixels = np.dstack([RAMP, np.where(np.arange(40) < 20, 0, 255)[None].repeat(24, 0)]).astype(np.uint8)
    decoded = decode_image(encode(pixels, "PNG", icc_profile=swapped_profile()))
    assert (decoded[:, :20] == 255).all()
    assert levels_apart(decoded[:, 20:], RAMP[:, 20:, ::-1]) <= 2


def test_reduced_decoding_stays_above_what_is_asked() -> None:
    photo = ramp(800, 1200)
    file = encode(photo, "JPEG", quality=95)
    assert decode_image(file, at_least=Size(400, 600)).shape == (400, 600, 3)
    assert decode_image(file, at_least=Size(401, 600)).shape == (800, 1200, 3)
    assert decode_image(file, at_least=Size(150, 100)).shape == (200, 300, 3)
    assert decode_image(file, at_least=Size(9000, 10)).shape == (800, 1200, 3)
    turned = with_segment(file, 0xE1, exif(6))
    assert decode_image(turned, at_least=Size(600, 400)).shape == (600, 400, 3)
    assert decode_image(turned, at_least=Size(400, 600)).shape == (1200, 800, 3)


def test_base64() -> None:
    file = encode(RAMP, "PNG")
    text = base64.b64encode(file).decode()
    wrapped = "data:image/png;base64," + "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    np.testing.assert_array_equal(decode_base64_image(text), RAMP)
    np.testing.assert_array_equal(decode_base64_image(wrapped), RAMP)
    for bad in (text[:-1], text[:50] + "*" + text[50:], "é" + text, text.replace("+", "-", 1) + "_"):
        with pytest.raises(ImageRefused) as refused:
            decode_base64_image(bad)
        assert refused.value.reason is ImageReason.BAD_BASE64
    with pytest.raises(ImageRefused) as refused:
        decode_base64_image("")
    assert refused.value.reason is ImageReason.EMPTY
