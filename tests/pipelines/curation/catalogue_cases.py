"""The bad-input catalogue as corpora: for each of its rows, files that show it, and what the probe has to say of them.

`CASES[number]` is a list of (writer, reasons): the writer fills a folder, the reasons are those of the rows that come
out, in order, None for a row that is accepted. `ELSEWHERE` names the rows that no file can bring before the probe.
"""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, features

from llava_core.errors import ImageRefused
from llava_core.images import decode_image
from tests.llava_core.image_files import encode, exif, gif_frame_at, png, png_chunk, ramp, with_segment, with_size
from tests.llava_core.test_images import frames_of, swapped_profile
from tests.llava_core.test_images_refused import CASES as REFUSED
from tests.pipelines.corpus_cases import member, tar_bytes
from tests.pipelines.hostile import hostile

Reasons = tuple[str | None, ...]
Case = tuple[Callable[[Path], None], Reasons]

ELSEWHERE = {
    78: "no reader takes Arrow IPC",
    99: "no URL is ever fetched; whatever is none of the corpus' own stores is refused as SCHEME (98)",
    100: "no URL is ever fetched, so there is no body to wait for; files and objects have TOO_LARGE (54)",
}
"""Rows of 1-101 that do not reach curation, and why. 102-110 are about checkpoints."""

RAMP = ramp()
JPEG = encode(RAMP, "JPEG", quality=92)
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]


def one(data: bytes, reason: str | None = None, name: str = "0.jpg") -> Case:
    """A folder of one file."""
    return lambda folder: (folder / name).write_bytes(data) and None, (reason,)


def archive(*members: tuple[tarfile.TarInfo, bytes], reasons: Reasons) -> Case:
    """A tar."""
    return one(tar_bytes(members), name="a.tar")[0], reasons


def table(columns: dict[str, Any], *reasons: str | None) -> Case:
    """A Parquet file."""
    return lambda folder: pq.write_table(pa.table(columns), folder / "a.parquet"), reasons


def lines(*records: bytes | dict[str, Any], reasons: Reasons) -> Case:
    """A JSONL file beside an image `x.jpg`, and a file that must not be reached one folder up."""

    def write(folder: Path) -> None:
        (folder / "x.jpg").write_bytes(JPEG)
        encoded = (record if isinstance(record, bytes) else json.dumps(record).encode() for record in records)
        (folder / "a.jsonl").write_bytes(b"\n".join(encoded))

    return write, reasons


def record(**values: Any) -> dict[str, Any]:
    """A record of a JSONL file whose image is there."""
    return {"image": "x.jpg", **values}


def caption(data: bytes, reason: str | None = None) -> Case:
    """A picture with a caption beside it."""

    def write(folder: Path) -> None:
        (folder / "0.jpg").write_bytes(JPEG)
        (folder / "0.txt").write_bytes(data)

    return write, (reason,)


def large(folder: Path) -> None:
    """A file of 2 GB that takes no room."""
    with (folder / "0.jpg").open("wb") as file:
        file.truncate(2 * 2**30)


def interlaced() -> bytes:
    """Adam7 of a 2×2 picture: passes 1, 6 and 7."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    rows = zlib.compress(bytes([0, 10, 0, 20, 0, 30, 40]))
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def many_frames() -> bytes:
    """A GIF of 100,000 frames."""
    gif = encode(Image.fromarray(ramp(6, 8)).quantize(8), "GIF")
    return gif[:-1] + gif[gif_frame_at(gif) : -1] * 100_000 + b";"


def many_scans() -> bytes:
    """A progressive JPEG of 3,000 scans and more."""
    file = encode(RAMP, "JPEG", progressive=True)
    return file[:-2] + file[file.rindex(b"\xff\xda") : -2] * 3000 + file[-2:]


def flipped() -> bytes:
    """A JPEG with a bit flipped that its decoder cannot notice, and that changes the picture."""
    plain = decode_image(JPEG)
    for at in range(len(JPEG) // 2, len(JPEG) - 2):
        file = JPEG[:at] + bytes([JPEG[at] ^ 4]) + JPEG[at + 1 :]
        try:
            if (decode_image(file) != plain).any():
                return file
        except ImageRefused:
            continue
    raise AssertionError("every flipped bit is noticed")


def zipped() -> bytes:
    """An archive that looks inside itself from its end, as ZIP does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("a.txt", "x")
    return file.getvalue()


def sixteen(colours: int) -> bytes:
    """A PNG of 16 bits a channel."""
    values = np.arange(12 * 10 * colours, dtype=np.uint16).reshape(12, 10, colours) * 131
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(12, 10, 16, {1: 0, 3: 2}[colours], rows)


def extension(name: str) -> pa.Array:
    """A column of an extension type of this name."""

    class Type(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.binary(), name)

        def __arrow_ext_serialize__(self) -> bytes:
            return b"payload"

    return pa.ExtensionArray.from_storage(Type(), pa.array([b"x"]))


def parquet_bytes(columns: dict[str, Any]) -> bytes:
    """A Parquet file in memory."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def refused(number: int) -> list[Case]:
    """The cases that `decode_image` itself is tested with."""
    found = [(data, reason) for name, (data, reason) in REFUSED.items() if name.split()[0] == str(number)]
    return [one(data, str(reason)) for data, reason in found]


def turned(number: int) -> bytes:
    """A JPEG with an EXIF orientation."""
    return with_segment(JPEG, 0xE1, exif(number))


GARBAGE = b"Exif\0\0garbage that is not a directory"
GPS = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\0\0\0\x08" + bytes(4)
CMYK = np.full((16, 32, 4), (200, 90, 30, 0), np.uint8)
ADOBE = encode(Image.fromarray(CMYK, "CMYK"), "JPEG")
PALETTE = Image.fromarray(RAMP).quantize(16)
LINK = member("1.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
IMAGE = {"image": [JPEG]}
FOOTER = parquet_bytes(IMAGE)
HUGE = member("1.jpg")[0]
HUGE.size = 8 * 2**60
NUL = member("1.jpg", JPEG)
NUL[0].pax_headers = {"path": "1\x00/../../x.jpg"}
BOMB = gzip.compress(tar_bytes([member("1.jpg", bytes(80 * 2**20))]))


def pixels_of(*files: bytes) -> list[Case]:
    """Pictures that are fine, each in a folder of its own."""
    return [one(data) for data in files]


IMAGES: dict[int, Sequence[Case]] = {
    **{number: refused(number) for number in (1, 2, 3, 7, 8, 9, 10, 23, 24, 31, 32, 33, 34, 45, 46, 49)},
    4: pixels_of(JPEG + b"\0after the end"),
    5: pixels_of(JPEG + zipped()),
    6: [one(encode(RAMP, "PNG"), name="0.jpg")],
    11: pixels_of(encode(RAMP, "JPEG", progressive=True)),
    12: [one(many_scans(), "TIMEOUT")],
    13: pixels_of(encode(Image.fromarray(CMYK, "CMYK"), "TIFF")),
    14: pixels_of(ADOBE, ADOBE[: ADOBE.index(b"Adobe") + 11] + b"\2" + ADOBE[ADOBE.index(b"Adobe") + 12 :]),
    15: pixels_of(encode(RAMP[..., 1], "PNG"), encode(RAMP[..., 1], "JPEG")),
    16: pixels_of(encode(Image.fromarray(RAMP).convert("1"), "PNG")),
    17: pixels_of(interlaced()),
    18: pixels_of(*(encode(Image.fromarray(RAMP).convert(mode), "PNG") for mode in ("RGBA", "LA"))),
    19: pixels_of(encode(PALETTE, "PNG")),
    20: pixels_of(encode(PALETTE, "PNG", transparency=3)),
    21: pixels_of(sixteen(1)),
    22: pixels_of(sixteen(3)),
    25: pixels_of(frames_of("PNG")),
    26: pixels_of(frames_of("GIF")),
    27: pixels_of(frames_of("WEBP")),
    28: pixels_of(frames_of("TIFF")),
    29: pixels_of(many_frames()),
    30: pixels_of(encode(RAMP, "MPO", save_all=True, append_images=[Image.fromarray(RAMP[::-1].copy())])),
    35: pixels_of(encode(RAMP, "AVIF")) if features.check("avif") else [one(b"\0\0\0\x18ftypavif", "UNSUPPORTED")],
    36: pixels_of(*(turned(number) for number in range(1, 9))),
    37: pixels_of(turned(0), turned(9)),
    38: pixels_of(with_segment(JPEG, 0xE1, GARBAGE)),
    39: pixels_of(with_segment(JPEG, 0xE1, GPS)),
    40: pixels_of(encode(RAMP, "JPEG", icc_profile=b"garbage")),
    41: pixels_of(encode(RAMP, "JPEG", icc_profile=swapped_profile())),
    42: [one(with_size(JPEG, 16_000, 16_001), "BOMB")],
    43: [one(with_size(JPEG, 8_001, 8_000), "BOMB")],
    44: [one(with_size(JPEG, 65_535, 65_535), "BOMB")],
    47: [one(encode(RAMP[:1, :1], "PNG"), "TOO_SMALL")],
    48: [one(with_size(JPEG, 20, 1_001), "ASPECT"), one(with_size(JPEG, 1, 10_000), "ASPECT")],
    50: pixels_of(flipped()),
    51: [one(hostile(JPEG, "crash"), "DECODER_CRASH")],
    52: [one(hostile(JPEG, "spin"), "TIMEOUT")],
    53: [one(hostile(JPEG, "swell"), "MEMORY")],
    54: [(large, ("TOO_LARGE",))],
    55: [lines({"image": "data:image/png;base64,*"}, {"image_base64": "A"}, reasons=("BAD_BASE64",) * 2)],
    56: [lines(record(), record(), reasons=(None, None))],
}

TARS: dict[int, Sequence[Case]] = {
    57: [one(tar_bytes([member("1.jpg", JPEG)])[:1000], "TRUNCATED_ARCHIVE", "a.tar")],
    58: [archive(member("../1.jpg", JPEG), member("/2.jpg", JPEG), reasons=("PATH_TRAVERSAL",) * 2)],
    59: [archive(NUL, member("2.jpg", JPEG), reasons=("PATH_TRAVERSAL", None))],
    60: [archive(LINK, member("2.jpg", JPEG), reasons=("SPECIAL_MEMBER", None))],
    61: [archive(member("1.jpg", kind=tarfile.CHRTYPE), member("2.jpg", kind=tarfile.FIFOTYPE),
                 reasons=("SPECIAL_MEMBER",) * 2)],
    62: [archive(member("1.jpg", JPEG), member("2.jpg", JPEG), member("1.jpg", JPEG), reasons=(None, None, "DUP_KEY"))],
    63: [archive(member("1.txt", b"x"), member("2.jpg", JPEG), reasons=("MISSING_PART", None))],
    64: [one(HUGE.tobuf(tarfile.GNU_FORMAT) + bytes(2048), "TOO_LARGE", "a.tar")],
    65: [one(BOMB, "BOMB", "a.tar.gz")],
    66: [archive(member("e\u0301.jpg", JPEG), member("2.jpg", JPEG), member("\u00e9.jpg", JPEG),
                 reasons=(None, None, "DUP_KEY"))],
    67: [archive(member("1.jpg", JPEG), member("1.pkl", b"x"), member("2.jpg", JPEG), member("2.pt", b"x"),
                 reasons=("UNSAFE_TYPE",) * 2)],
    68: [archive(member("1.zip", b"x"), reasons=("NESTED_ARCHIVE",))],
    69: [archive(reasons=())],
}  # fmt: skip

PARQUETS: dict[int, Sequence[Case]] = {
    70: [one(FOOTER[:-9], "CORRUPT", "a.parquet"), one(FOOTER[:200], "CORRUPT", "a.parquet")],
    71: [table({"image": pa.array([], pa.binary())})],
    72: [table({"image": extension("ray.data.arrow_variable_shaped_tensor")}, "UNSAFE_TYPE")],
    73: [table({**IMAGE, "other": extension("ray.data.arrow_pickled_object")}, "UNSAFE_TYPE")],
    74: [table({"caption": ["x"]}, "SCHEMA"), table({"image": [1.5]}, "SCHEMA")],
    75: [table({**IMAGE, "text": pa.array(["a cat"], pa.large_string()), "id": [7]}, None),
         table({**IMAGE, "text": pa.array(["a cat"]).dictionary_encode()}, None)],
    76: [table({"image": pa.array([None, JPEG], pa.binary()), "text": ["a", None]}, "NULL_FIELD", None)],
    77: [table({"image": pa.nulls(1_000_001, pa.binary())}, "MEMORY")],
    79: [one(FOOTER[:-4] + b"PARE", "CORRUPT", "a.parquet")],
}  # fmt: skip

DEEP = b'{"image": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BACK = [TURNS[1], TURNS[0]]
URLS = ("file:///etc/passwd", "ftp://host/a.jpg", "http://169.254.169.254/latest", "http://[::ffff:a9fe:a9fe]/")
TEXTS: dict[int, Sequence[Case]] = {
    80: [lines(record(), b'{"image": "x.jpg"', reasons=(None, "BAD_JSON"))],
    81: [lines(b'{"image": "y.jpg", "image": "x.jpg"}', reasons=("BAD_JSON",))],
    82: [lines(b'{"image": "x.jpg", "a": NaN}', b'{"image": "x.jpg", "a": 1e999}', reasons=("BAD_JSON",) * 2)],
    83: [lines(DEEP, reasons=("BAD_JSON",))],
    84: [lines(b'{"image": "x.jpg", "n": ' + b"7" * 5000 + b"}", reasons=("BAD_JSON",))],
    85: [lines(b"\xef\xbb\xbf" + json.dumps(record()).encode(), reasons=(None,)), caption(b"\xef\xbb\xbfa cat")],
    86: [caption(b"a \xff cat", "BAD_ENCODING")],
    87: [lines(b'{"image": "x.jpg", "text": "\\ud800"}', reasons=("BAD_ENCODING",))],
    88: [caption(b"a\0 \x1bcat")],
    89: [caption("a \u202ecat\u200b".encode())],
    90: [caption("cafe\u0301".encode())],
    91: [caption(b"x" * 1_000_001, "TOO_LONG")],
    92: [caption(b""), lines(record(conversations=[TURNS[0], {"from": "gpt", "value": " "}]), reasons=("EMPTY_TEXT",))],
    93: [caption(b"an <image> of a cat")],
    94: [caption(b"</s> <|im_start|> [INST]"), lines(record(conversations=[{"from": "human", "value": "<image></s>"},
         TURNS[1]]), reasons=(None,))],
    95: [lines(record(conversations=[{"from": "human", "value": "<image><image>"}, TURNS[1]]),
               reasons=("TOKEN_MISMATCH",))],
    96: [lines(record(conversations=BACK), record(conversations=[{"from": "x"}]), reasons=("BAD_CONVERSATION",) * 2)],
    97: [caption(b"<script>alert(1)</script>\n\x1b[31mred")],
    98: [lines(*(record(image=url) for url in URLS), reasons=("SCHEME",) * len(URLS))],
    101: [lines(record(image="https://user:hunter2@host/a.jpg"), reasons=("SCHEME",))],
}  # fmt: skip

CASES: dict[int, Sequence[Case]] = {**IMAGES, **TARS, **PARQUETS, **TEXTS}
