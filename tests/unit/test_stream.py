"""Docker's stream frames: exact bytes, and what is refused."""

import pytest

from onggi.errors import DataLoss
from onggi.sandbox.stream import MAX_FRAME_SIZE_BYTES, Piece, Stream, StreamDecoder, encode_frame


def test_frame_is_stream_three_zeros_length_bytes() -> None:
    assert encode_frame(Stream.STDERR, b"hi\n") == b"\x02\0\0\0\0\0\0\x03hi\n"


def test_two_frames_in_one_read() -> None:
    data = encode_frame(Stream.STDOUT, b"out") + encode_frame(Stream.STDERR, b"err")
    pieces = StreamDecoder().feed(data)
    assert pieces == [Piece(Stream.STDOUT, b"out"), Piece(Stream.STDERR, b"err")]


def test_bytes_are_handed_on_before_their_frame_is_complete() -> None:
    decoder = StreamDecoder()
    assert decoder.feed(b"\x01\0\0\0\xff\xff\xff\xffabc") == [Piece(Stream.STDOUT, b"abc")]
    with pytest.raises(DataLoss, match=f"{MAX_FRAME_SIZE_BYTES - 3} bytes before its end"):
        decoder.end()


def test_empty_frame_gives_nothing() -> None:
    decoder = StreamDecoder()
    assert decoder.feed(encode_frame(Stream.STDOUT, b"")) == []
    decoder.end()


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\x01", b"\x01\0\x01\0\0\0\0\x01"])
def test_what_is_no_frame_is_refused(header: bytes) -> None:
    with pytest.raises(DataLoss, match="not a stream frame"):
        StreamDecoder().feed(header + b"x")


def test_end_inside_a_header_is_a_loss() -> None:
    decoder = StreamDecoder()
    decoder.feed(b"\x01\0")
    with pytest.raises(DataLoss, match="inside a frame"):
        decoder.end()


class _Huge(bytes):
    def __len__(self) -> int:
        return MAX_FRAME_SIZE_BYTES + 1


def test_frame_longer_than_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_frame(Stream.STDOUT, _Huge())
