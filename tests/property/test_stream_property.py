"""Docker's stream frames survive any division of a connection into reads."""

import hypothesis.strategies as st
from hypothesis import given

from onggi.errors import DataLoss
from onggi.sandbox.stream import Piece, Stream, StreamDecoder, encode_frame

frames = st.lists(st.tuples(st.sampled_from(Stream), st.binary(max_size=300)), max_size=20)


def joined(pieces: list[Piece]) -> list[tuple[Stream, bytes]]:
    """Neighbouring pieces of the same stream as one."""
    result: list[tuple[Stream, bytes]] = []
    for stream, data in pieces:
        if result and result[-1][0] is stream:
            result[-1] = (stream, result[-1][1] + data)
        elif data:
            result.append((stream, data))
    return result


@given(frames, st.lists(st.integers(1, 50)))
def test_any_division_gives_the_same_streams(
    content: list[tuple[Stream, bytes]], sizes: list[int]
) -> None:
    data = b"".join(encode_frame(stream, piece) for stream, piece in content)
    decoder = StreamDecoder()
    pieces: list[Piece] = []
    for size in sizes:
        pieces += decoder.feed(data[:size])
        data = data[size:]
    pieces += decoder.feed(data)
    decoder.end()
    assert joined(pieces) == joined([Piece(*frame) for frame in content])
    assert all(piece.data for piece in pieces)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_gives_no_more_than_it_holds(noise: bytes) -> None:
    try:
        pieces = StreamDecoder().feed(noise)
    except DataLoss:
        return
    assert sum(len(piece.data) for piece in pieces) <= len(noise)
