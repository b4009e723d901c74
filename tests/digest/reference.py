"""An independent reading of the key format documented in src/rules/digest.rs: prints the golden digests of its unit test.

Run it as `python3 tests/digest/reference.py > tests/digest/golden.txt`.
"""
import decimal
import hashlib
import struct


def text(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">I", len(data)) + data


def value(v):
    if v is None:
        return b"\0"
    if v is False:
        return b"\1"
    if v is True:
        return b"\2"
    if isinstance(v, int):
        return b"i" + text(str(v))
    if isinstance(v, float):
        if v != v:
            return b"f\x7f\xf8" + bytes(6)
        return b"f" + struct.pack(">d", v if v else 0.0)
    if isinstance(v, str):
        return b"s" + text(v)
    if isinstance(v, bytes):
        return b"b" + text(v)
    count = struct.pack(">I", len(v)) if not isinstance(v, decimal.Decimal) else None
    if isinstance(v, list):
        return b"l" + count + b"".join(map(value, v))
    if isinstance(v, tuple):
        return b"t" + count + b"".join(map(value, v))
    if isinstance(v, set):
        return b"e" + count + b"".join(sorted(map(value, v)))
    if isinstance(v, dict):
        return b"m" + count + b"".join(sorted(value(k) + value(x) for k, x in v.items()))
    return b"o" + text("decimal.Decimal") + struct.pack(">I", 1) + value(str(v))


def digest(domain, vhost, namespace, *parts):
    key = bytes([domain]) + text(vhost) + text(namespace) + struct.pack(">I", len(parts)) + b"".join(map(value, parts))
    return hashlib.sha256(key).hexdigest()


print(digest(1, "/", "reports.generate"))
print(digest(1, "/", "reports.generate", 1))
print(digest(129, "/", "reports.generate", 1))
print(digest(2, "/", "reports.generate", "1"))
print(digest(1, "prod", "t", None, True, 1.5, "\u00e9"))
print(digest(1, "/", "t", {"b": [-1], "a": (123456789012345678901234567890,)}))
print(digest(1, "/", "t", {2, 1}, b"\x00\xff"))
print(digest(1, "/", "t", decimal.Decimal("1.10")))
print(digest(3, "/", "reports.generate", [1], {}))
