"""httpCall against servers that mean harm: they flood, block, repeat a secret in odd ways, or die at the wrong moment."""

from __future__ import annotations

import asyncio
import gzip
import random
from typing import TYPE_CHECKING, Any

import pytest
from http_calls import Secrets, call_of, client, failure, perform, ref, secret
from http_servers import Received, json_response, redirect, reset, response, serve
from waiting import eventually

from stepwell.adapters.http.guard import AddressPolicy
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from http_servers import Answer

# What would hold up the process


@pytest.mark.parametrize("charset", ["_punycode", "PunyCode-", "-idna-"])
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_no_charset_is_read_that_takes_a_minute(charset: str, status: str) -> None:
    """Half of a maximal body would be ten seconds within one call; a worker that long is taken for dead."""
    body = b"a" * 500_000
    async with serve(response(body, f'Content-Type: text/plain; charset="{charset}"', status=status)) as server:
        began = asyncio.get_running_loop().time()
        failed = await failure({"url": server.url})
        assert asyncio.get_running_loop().time() - began < 3
    assert failed.reason == ("InvalidResponse" if status == "200 OK" else "UnexpectedStatus")


@pytest.mark.parametrize(
    "header",
    [
        f"text/plain; charset*{'9' * 5000}=x",
        "text/plain; charset*0*=%zz'x'y; charset*1*=q",
        f"text/plain; {'a=b;' * 1500}",
        "text/plain; " + 3000 * '"',
        ";;charset=;",
    ],
)
async def test_an_odd_content_type_is_no_defect(header: str) -> None:
    async with serve(response(b"abc", f"Content-Type: {header}")) as server:
        assert (await perform({"url": server.url})).output == "abc"
    async with serve(response(b"abc", f"Content-Type: {header}", status="503 Busy")) as server:
        failed = await failure({"url": server.url})
    assert (failed.reason, failed.status, failed.final) == ("UnexpectedStatus", 503, False)


def flood(begin: bytes, block: bytes) -> Answer:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(block)
            await writer.drain()

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "block", "said"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "more than 16 answers at once"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000, "more than 16 answers at once"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000, "Too many headers"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65_536, "more than 8190 bytes"),
        (b"HTTP/1.1 200 ", b"y" * 65_536, "more than 8190 bytes"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n" * 1000, "Too many headers"),
        (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"y" * 65_536, "more than 8190 bytes"),
    ],
)
async def test_a_flood_is_cut_off(begin: bytes, block: bytes, said: str) -> None:
    async with serve(flood(begin, block)) as server:
        failed = await failure({"url": server.url})
    assert failed.reason == "InvalidResponse"
    assert said in failed.message


async def test_a_compressed_body_that_holds_nothing_without_end() -> None:
    """Each five bytes are an empty block: nothing of them counts as a body."""
    begin = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"", mtime=0)[:10]
    async with serve(flood(begin, b"\0\0\0\xff\xff" * 1000)) as server:
        assert (await failure({"url": server.url})).reason == "ResponseTooLarge"


async def test_some_interim_answers_are_passed_over() -> None:
    async with serve(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 10 + json_response("[1]")) as server:
        for _ in range(2):
            assert (await perform({"url": server.url})).output == [1]


@pytest.mark.parametrize("begin", [b"\r\n" * 100, CHUNKED + b"1;", CHUNKED + b"0" * 100])
async def test_what_never_becomes_an_answer_ends_with_the_timeout(begin: bytes) -> None:
    async with serve(flood(begin, b"\r\n" * 100 if begin.startswith(b"\r") else b"0" * 100)) as server:
        failed = await failure({"url": server.url}, call=call_of(0.2))
    assert failed.reason == "Timeout"


@pytest.mark.parametrize("member", [b"[1]", b""])
async def test_a_compressed_body_ends_where_it_says(member: bytes) -> None:
    """Behind the last member only another one may stand, which a stray byte is not."""
    for more in (b"\0", b"garbage", gzip.compress(b" ", mtime=0)[:-1]):
        async with serve(response(gzip.compress(member, mtime=0) + more, "Content-Encoding: gzip")) as server:
            failed = await failure({"url": server.url})
        assert failed.reason == "InvalidResponse"
        assert failed.http
        assert failed.http["status"] == 200


async def test_a_length_beside_chunks_is_refused() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n"
    async with serve(answer) as server:
        failed = await failure({"url": server.url})
    assert failed.message.endswith(
        "the answer is not valid HTTP: Transfer-Encoding can't be present with Content-Length"
    )


async def test_trailers_are_read_and_not_shown() -> None:
    async with serve(CHUNKED + b"1\r\n7\r\n0\r\nX-Late: yes\r\n\r\n") as server:
        outcome = await perform({"url": server.url})
    assert (outcome.output, outcome.http) == (7, {"status": 200, "headers": {"transfer-encoding": "chunked"}})


ANSWERS = [
    json_response('{"a": [1, null, "x"]}'),
    response(
        gzip.compress(b"[1, 2]", mtime=0), "Content-Encoding: gzip", "Content-Type: application/json; charset=utf-8"
    ),
    CHUNKED + b"2\r\n[1\r\n1;ext=1\r\n]\r\n0\r\nX-T: a\r\n\r\n",
    response(
        b"", "Retry-After: Wed, 21 Oct 2015 07:28:30 GMT", "Date: Wed, 21 Oct 2015 07:28:00 GMT", status="503 Busy"
    ),
    redirect("/next?a=b"),
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + json_response("{}"),
    response(b"caf\xe9", "Content-Type: text/plain; charset=latin-1", "Set-Cookie: a=b; Expires=x"),
]
PIECES = [
    b"\r\n", b"\0", b"\xff", b":", b";", b"0", b"-1", b"9" * 20, b"chunked", b"gzip", b"Content-Length: 3\r\n", b"Location: http://[",
    b"'", b'"', b"charset=", b"utf-16", b"Connection: close\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n",
]  # fmt: skip


def damaged(chance: random.Random) -> bytes:
    answer = bytearray(chance.choice(ANSWERS))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(answer))
        answer[at : at + chance.choice([0, 0, 1, 4])] = chance.choice([*PIECES, chance.randbytes(1)])
    return bytes(answer)


async def test_whatever_comes_is_an_output_or_a_failure_that_has_a_reason() -> None:
    chance = random.Random(20261123)
    answers: list[bytes] = []

    async def next_one(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[-1])
        writer.close()

    ended: set[str] = set()
    async with serve(next_one) as server, client() as opened:
        for number in range(600):
            answers.append(damaged(chance))
            auth = {"auth": {"bearer": ref("api", "token")}} if number % 2 else {}
            spec = {"url": server.url, "followRedirects": True, **auth}
            try:
                await perform(spec, secrets=known(), through=opened)
                ended.add("Succeeded")
            except StepFailure as failed:
                ended.add(failed.reason)
    assert {"Succeeded", "InvalidResponse", "ConnectionLost", "UnexpectedStatus", "TooManyRedirects"} <= ended
    assert "InternalError" not in ended


# Addresses in disguise


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
    ],
)
async def test_no_spelling_of_this_machine_reaches_it(host: str) -> None:
    async with serve(json_response("1")) as server:
        failed = await failure({"url": f"http://{host}:{server.port}/"}, policy=AddressPolicy())
        assert not server.connections
    assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)


# Kept connections that die


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
@pytest.mark.parametrize("how", ["reset", "closed", "within the answer"])
async def test_a_kept_connection_that_dies_is_no_reason_to_send_twice(method: str, how: str) -> None:
    async def second_never(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/first":
            writer.write(json_response("1"))
        elif how == "reset":
            reset(writer)
        else:
            writer.write(b"HTTP/1.1 20" if how == "within the answer" else b"")
            writer.close()

    async with serve(second_never) as server, client() as opened:
        await perform({"url": f"{server.url}/first", "method": method}, through=opened)
        failed = await failure({"url": f"{server.url}/second", "method": method}, through=opened)
        assert [request.target for request in server.requests] == ["/first", "/second"]
        assert server.connections == 1, "the kept connection was not used"
    assert (failed.reason, failed.kind, failed.sent, failed.final) == ("ConnectionLost", "Network", True, False)


async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(json_response("1"))
        writer.write_eof()

    async with serve(once) as server, client() as opened:
        for number in (1, 2):
            server.left.clear()
            assert (await perform({"url": server.url, "method": "POST"}, through=opened)).output == 1
            await asyncio.wait_for(server.left.wait(), 5)  # the client saw the end, and closed its side
            assert (server.connections, len(server.requests)) == (number, number)


async def test_an_idle_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server does it, which would meet the next request on its way."""
    monkeypatch.setattr("stepwell.adapters.http.connector.IDLE_SECONDS", 0.1)
    async with serve(json_response("1")) as server, client() as opened:
        await perform({"url": server.url}, through=opened)
        await asyncio.wait_for(server.left.wait(), 10)


# Connections that are not to be had


async def test_a_server_that_never_shakes_hands_was_sent_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        failed = await failure({"url": f"https://127.0.0.1:{port}/", "method": "POST"}, call=call_of(0.2))
    assert (failed.reason, failed.sent) == ("Timeout", False)
    assert failed.message.endswith("no connection within 0.2 s")


async def test_a_call_that_waits_for_a_place_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.adapters.http.connector.MAX_CONNECTIONS", 2)

    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(silent) as server, client() as opened:
        held = [asyncio.ensure_future(perform({"url": server.url, "method": "POST"}, through=opened)) for _ in range(2)]
        await eventually(lambda: len(server.requests) == 2)
        failed = await failure({"url": server.url, "method": "POST"}, through=opened, call=call_of(0.1))
        assert len(server.requests) == 2
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    assert (failed.reason, failed.sent) == ("Timeout", False)


async def test_calls_of_many_runs_are_in_flight_at_once() -> None:
    together = asyncio.Barrier(60)

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await together.wait()
        writer.write(json_response("1"))

    async with serve(answer) as server, client() as opened:
        await asyncio.gather(*(perform({"url": server.url}, through=opened) for _ in range(together.parties)))


# What repeats a secret in odd ways

TOKEN = "tok_7f3a9c/1e+5b=='<&>'"


def known() -> Any:
    return Secrets(secret("api", token=TOKEN, short="s3cr3t"))


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
@pytest.mark.parametrize("block", [1, 7, 1000])
async def test_a_secret_that_comes_in_pieces(status: str, block: int) -> None:
    """In chunks, compressed, and as .NET writes it in JSON."""
    written = TOKEN
    for mark in "+<&>'":
        written = written.replace(mark, f"\\u{ord(mark):04X}")
    body = gzip.compress(f'{{"token": "Bearer {written}"}}'.encode(), mtime=0)
    chunks = [body[at : at + block] for at in range(0, len(body), block)]

    async def in_pieces(request: Received, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for chunk in (*chunks, b""):
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()

    spec = {"auth": {"bearer": ref("api", "token")}}
    async with serve(in_pieces) as server:
        if status.startswith("200"):
            assert (await perform({"url": server.url, **spec}, secrets=known())).output == {"token": "Bearer ***"}
        else:
            failed = await failure({"url": server.url, **spec}, secrets=known())
            assert failed.message.endswith(': {"token": "Bearer ***"}')


@pytest.mark.parametrize("host", ["0", "127.1", f"{'a' * 70}.example"])
async def test_a_secret_parameter_too_short_for_a_mask_is_in_no_message(host: str) -> None:
    auth = {"query": [{"name": "k", **ref("api", "short")}]}
    failed = await failure({"url": f"https://{host}/x", "auth": auth}, secrets=known())
    assert failed.message.startswith(f"GET https://{host}/x: ")
    assert "s3cr3t" not in f"{failed!r} {failed}"
