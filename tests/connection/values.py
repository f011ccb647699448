"""Random values of every type that psycopg adapts, and those at the edges."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import math
import random
import uuid
from collections import namedtuple
from collections.abc import Callable
from typing import Any, cast
from zoneinfo import ZoneInfo

import psycopg
from psycopg.types import enum as pg_enum
from psycopg.types import numeric
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.hstore import register_hstore
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

Make = Callable[[random.Random], Any]

Pair = namedtuple("Pair", "number note")
Nest = namedtuple("Nest", "pair pairs mood")


class Mood(enum.Enum):
    SAD = "sad"
    SO_SO = "so, so"
    HAPPY = 'h"appy'


# hstore itself is an extension that not every server has. This type of its name keeps what it gets,
# as text or binary; psycopg does the rest.
SCHEMA = """
drop schema if exists values_of_types cascade;
create schema values_of_types;
set search_path = values_of_types;
create type mood as enum ('sad', 'so, so', 'h"appy');
create type pair as (number int, note text);
create type nest as (pair pair, pairs pair[], mood mood);
create type hstore;
create function hstore_in(cstring) returns hstore language internal immutable strict as 'textin';
create function hstore_out(hstore) returns cstring language internal immutable strict as 'textout';
create function hstore_recv(internal) returns hstore
    language internal immutable strict as 'bytearecv';
create function hstore_send(hstore) returns bytea language internal immutable strict as 'byteasend';
create type hstore (
    input = hstore_in, output = hstore_out, receive = hstore_recv, send = hstore_send, like = text);
"""


def register(conn: psycopg.Connection[Any], known: dict[str, psycopg.types.TypeInfo]) -> None:
    """Let *conn* adapt the types of `SCHEMA`, as `fetch_types` found them."""
    labels = {member: member.value for member in Mood}
    pg_enum.register_enum(cast(Any, known["mood"]), conn, Mood, mapping=labels)
    register_hstore(known["hstore"], conn)
    register_composite(cast(Any, known["pair"]), conn, Pair)
    register_composite(cast(Any, known["nest"]), conn, Nest)


def fetch_types(conn: psycopg.Connection[Any]) -> dict[str, psycopg.types.TypeInfo]:
    """Ask the server for the types of `SCHEMA`."""
    infos: dict[str, Any] = {
        "mood": pg_enum.EnumInfo.fetch(conn, "mood"),
        "hstore": psycopg.types.TypeInfo.fetch(conn, "hstore"),
        "pair": CompositeInfo.fetch(conn, "pair"),
        "nest": CompositeInfo.fetch(conn, "nest"),
    }
    return infos


# -- generators ----------------------------------------------------------------------------------

ZONES = ["UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Apia"]


def text(rng: random.Random) -> str:
    alphabet = "aZ 0'\"\\{}(),;%$\n\t\x01éß日本😀\u2028NULL"
    return "".join(rng.choices(alphabet, k=rng.randrange(12)))


def data(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(20))


def integer(bits: int) -> Make:
    return lambda rng: rng.randrange(-(2 ** (bits - 1)), 2 ** (bits - 1)) >> rng.randrange(bits)


def decimal_number(rng: random.Random) -> decimal.Decimal:
    digits = tuple(rng.randrange(10) for _ in range(rng.randrange(1, 40)))
    return decimal.Decimal((rng.randrange(2), digits, rng.randrange(-30, 30)))


def floating(rng: random.Random) -> float:
    return rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30)


def date(rng: random.Random) -> dt.date:
    return dt.date.fromordinal(rng.randrange(1, dt.date.max.toordinal() + 1))


def naive(rng: random.Random) -> dt.datetime:
    return dt.datetime.combine(date(rng), time(rng))


def aware(rng: random.Random) -> dt.datetime:
    day = dt.date.fromordinal(rng.randrange(2, dt.date.max.toordinal() - 1))
    zone = rng.choice([dt.timezone.utc, ZoneInfo(rng.choice(ZONES)), offset(rng)])
    return dt.datetime.combine(day, time(rng), zone)


def offset(rng: random.Random) -> dt.timezone:
    return dt.timezone(dt.timedelta(minutes=rng.randrange(-15 * 60, 15 * 60)))


def time(rng: random.Random) -> dt.time:
    parts = rng.randrange(24), rng.randrange(60), rng.randrange(60), rng.randrange(10**6)
    return dt.time(*parts)


def time_with_zone(rng: random.Random) -> dt.time:
    return time(rng).replace(tzinfo=offset(rng))


def interval(rng: random.Random) -> dt.timedelta:
    return dt.timedelta(rng.randrange(-(10**6), 10**6), rng.randrange(86400), rng.randrange(10**6))


def address(rng: random.Random) -> Any:
    version4 = rng.random() < 0.5
    number = rng.getrandbits(32 if version4 else 128)
    return (ipaddress.IPv4Address if version4 else ipaddress.IPv6Address)(number)


def interface(rng: random.Random) -> Any:
    return ipaddress.ip_interface(f"{(host := address(rng))}/{rng.randrange(host.max_prefixlen)}")


def network(rng: random.Random) -> Any:
    return interface(rng).network


def json_value(rng: random.Random, depth: int = 0) -> Any:
    makers: list[Make] = [text, integer(60), floating, lambda r: r.choice([None, True, False])]
    if depth < 3:
        makers += [
            lambda r: [json_value(r, depth + 1) for _ in range(r.randrange(3))],
            lambda r: {text(r): json_value(r, depth + 1) for _ in range(r.randrange(3))},
        ]
    return rng.choice(makers)(rng)


def dictionary(rng: random.Random) -> dict[str, str | None]:
    return {text(rng): rng.choice([text(rng), None]) for _ in range(rng.randrange(4))}


def nullable(make: Make) -> Make:
    return lambda rng: None if rng.random() < 0.2 else make(rng)


def listed(make: Make, dimensions: int = 1) -> Make:
    def make_list(rng: random.Random) -> Any:
        shape = [rng.randrange(1, 4) for _ in range(dimensions)]

        def fill(level: int) -> Any:
            if level == dimensions:
                return nullable(make)(rng)
            return [fill(level + 1) for _ in range(shape[level])]

        return fill(0)

    return make_list


def ranged(make: Make) -> Make:
    def make_range(rng: random.Random) -> Any:
        if rng.random() < 0.1:
            return Range(empty=True)
        lower, upper = sorted((make(rng), make(rng)))
        bounds = rng.choice(["[)", "[]", "(]", "()"])
        return Range(rng.choice([lower, None]), rng.choice([upper, None]), bounds)

    return make_range


def several_ranges(make: Make) -> Make:
    return lambda rng: Multirange([ranged(make)(rng) for _ in range(rng.randrange(4))])


def pair(rng: random.Random) -> Any:
    return Pair(nullable(integer(32))(rng), nullable(text)(rng))


def nest(rng: random.Random) -> Any:
    pairs = [nullable(pair)(rng) for _ in range(rng.randrange(3))]
    return Nest(nullable(pair)(rng), pairs, nullable(mood)(rng))


def mood(rng: random.Random) -> Mood:
    return rng.choice(list(Mood))


# -- the types -----------------------------------------------------------------------------------

EDGES = ["0001-01-01", "9999-12-31T23:59:59.999999"]
NAN, INF = math.nan, math.inf
DEC = decimal.Decimal
HUGE = [2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 10**40]
TEXTS = ["", "NULL", "null", "\\", "nul\0", "\ud800", "x" * 5000]

SCALARS: dict[str, tuple[list[Any], Make]] = {
    "bool": ([True, False, "maybe"], lambda rng: rng.random() < 0.5),
    "int2": ([0, -(2**15), 2**15 - 1, 2**15, *HUGE], integer(16)),
    "int4": ([0, -(2**31), 2**31 - 1, True, numeric.Int2(7), *HUGE], integer(32)),
    "int8": ([0, -(2**63), 2**63 - 1, numeric.Int8(7), *HUGE], integer(64)),
    "oid": ([0, 2**32 - 1, numeric.Oid(7), -1], lambda rng: rng.getrandbits(32)),
    "numeric": (
        [*map(DEC, ("NaN", "sNaN", "Infinity", "-Infinity", "0", "-0", "0E+7", "1E-99")), *HUGE],
        decimal_number,
    ),
    "float4": ([0.0, -0.0, NAN, INF, -INF, 1e39, numeric.Float4(1.1)], floating),
    "float8": ([0.0, -0.0, NAN, INF, -INF, 5e-324, numeric.Float8(1.1), 1], floating),
    "text": (TEXTS, text),
    "varchar(5)": (["12345", "123456", "12345 "], text),
    "char(3)": (["a", "1234"], text),
    '"char"': (["a", "\x7f", "long"], text),
    "name": (["a" * 70], text),
    "bytea": ([b"", b"\0\xff", bytearray(b"a"), memoryview(b"m"), "text"], data),
    "uuid": ([uuid.UUID(int=0), "no uuid"], lambda rng: uuid.UUID(int=rng.getrandbits(128))),
    "json": ([Json(None), Json({"a": [1]}), Jsonb(1), "{", '"\\u0000"', Json({"x": object})],
             lambda rng: Json(json_value(rng))),
    "jsonb": ([Jsonb(None), Jsonb("\0"), Json(1), {"plain": "dict"}, Jsonb(NAN)],
              lambda rng: Jsonb(json_value(rng))),
    "date": ([dt.date.min, dt.date.max, "infinity", "0001-01-01 BC", "10000-01-01"], date),
    "time": ([dt.time.min, dt.time.max, "24:00", dt.time(1, tzinfo=ZoneInfo("Asia/Tokyo"))], time),
    "timetz": ([dt.time(0, tzinfo=dt.timezone.utc), "12:00:00+01:02:03"], time_with_zone),
    "timestamp": ([*map(dt.datetime.fromisoformat, EDGES), "-infinity", "10000-01-01"], naive),
    "timestamptz": (
        [dt.datetime(1, 1, 1, tzinfo=dt.timezone.utc), "infinity", "10000-01-01 00:00+00"],
        aware,
    ),
    "interval": (
        [dt.timedelta.min, dt.timedelta.max, "1 mon -3 days", "178000000 years", dt.timedelta(0)],
        interval,
    ),
    "inet": (["::1/128", "not one", ipaddress.ip_interface("1.2.3.4/0")], address),
    "cidr": (["10.0.0.0/8", "10.0.0.1/8"], network),
    "mood": ([*Mood, "happier", "sad"], mood),
    "pair": ([Pair(None, None), (1, "a"), (1, 2, 3), ("x", "y"), Pair(1, "")], pair),
    "nest": ([Nest(None, [], None), Nest((1, "a"), [Pair(1, "a"), None], Mood.SAD)], nest),
    "hstore": ([{}, {"": None}, {1: "a"}, {"a": 1}], dictionary),
}  # fmt: skip

ARRAYS = [
    *("bool", "int2", "int4", "int8", "numeric", "float4", "float8", "text", "bytea", "uuid"),
    *("jsonb", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "inet", "cidr"),
    *("mood", "pair", "nest", "hstore"),
]
ARRAY_EDGES = [[], [[]], [None], [[None]], [1, "a"], [[1], [2, 3]], [1, [2]], [2**40, 1], "{", "{}"]

RANGES: dict[str, Make] = {
    "int4": integer(31),
    "int8": integer(60),
    "num": decimal_number,
    "date": lambda rng: dt.date.fromordinal(rng.randrange(10**4, 10**6)),
    "ts": naive,
    "tstz": aware,
}
RANGE_EDGES = [Range(empty=True), Range(), Range(None, None, "[]"), Range("a", "b"), "empty", "[,"]
MULTI_EDGES = [Multirange(), Multirange([Range(empty=True), Range()]), "{", "{}"]

TYPES: dict[str, tuple[list[Any], Make]] = {
    **SCALARS,
    **{f"{name}[]": (ARRAY_EDGES, listed(SCALARS[name][1])) for name in ARRAYS},
    **{f"{name}[][]": ([], listed(SCALARS[name][1], 2)) for name in ("int4", "text", "pair")},
    **{f"{name}range": (RANGE_EDGES, ranged(make)) for name, make in RANGES.items()},
    **{f"{name}multirange": (MULTI_EDGES, several_ranges(make)) for name, make in RANGES.items()},
    "int4range[]": ([], listed(ranged(integer(31)))),
    "nummultirange[]": ([], listed(several_ranges(decimal_number))),
}
