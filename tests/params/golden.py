"""Prints what Python itself makes of signatures, calls and defaults, for the unit tests of src/rules/params.rs.

Run it as `python3 tests/params/golden.py > tests/params/golden.txt` (Python 3.11 or later). Lines, separated by tabs:

    bind     SIGNATURE  ARGS  KWARGS  RESULT     RESULT: the bound values in order as JSON, or `missing`, or `refused`
    default  TEXT  KEY                           KEY: the typed form of `ast.literal_eval(TEXT)`
    syntax   SIGNATURE                           Python refuses this signature
"""
import ast
import inspect
import json

SIGNATURES = [
    "", "a", "a, b", "a, b=2", "a=1, b=2", "a, /", "a, /, b", "a, b=2, /", "a, /, b=2, *, c", "*, a", "*, a=1", "*, a, b=2, c",
    "*rest", "a, *rest", "a, *rest, b", "a, *rest, b=5", "**others", "a, **others", "a, /, **others", "a=1, /, **others",
    "a, b=2, *rest, c, d=4, **others", "a: int, b: 'str' = 2", "a: dict[str, int] = None, *, b: list[int] = 7", "id, task=3", "args, kwargs",
    "*args, **kwargs", "a,", "a = 1 , b= 2",
]
CALLS = [
    ([], {}), ([1], {}), ([1, 2], {}), ([1, 2, 3], {}), ([1, 2, 3, 4], {}), ([], {"a": 1}), ([], {"b": 1}), ([], {"a": 1, "b": 3}),
    ([], {"b": 3, "a": 1}), ([1], {"a": 1}), ([1], {"b": 3}), ([1], {"c": 3}), ([1, 2], {"c": 3}), ([1, 2], {"b": 3}), ([], {"c": 9}),
    ([1], {"z": 9}), ([], {"a": 1, "z": 9}), ([1, 2, 3], {"c": 4, "z": 9}), ([], {"a": None}), ([[1]], {"b": {"x": [2]}}),
    ([], {"id": 7}), ([7], {"task": 8}), ([1], {"rest": 2}), ([1], {"others": 2}), ([1], {"args": 2, "kwargs": 3}),
]
DEFAULTS = [
    "None", "True", "False", "0", "00", "7", "-7", "+7", "1_000", "0x1f", "0XFF", "-0x10", "0o17", "0b101", "9223372036854775807",
    "-9223372036854775808", "9223372036854775808", "123456789012345678901234567890", "-123456789012345678901234567890", "1.5", "-1.5",
    "1.", ".5", "1e3", "1E-3", "1_0.5_0e1_0", "0.0", "''", '""', "'a'", "'it\\'s'", "\"a'b\"", "'a\\nb\\t\\\\'", "'\\x41\\u00e9\\U0001F600'",
    "'\\101\\0'", "r'a\\nb'", "u'a'", "'a' 'b'", "'''a'b'''", "'\\q'", "b''", "b'a\\xff'", "rb'\\n'", "'\u00e9'", "[]", "[1, 'a', None]",
    "[1,]", "()", "(1,)", "(1, 2)", "(1)", "((1, 2), [3])", "{}", "{'a': 1, 'b': [2]}", "{1: 'x', None: ()}", "{1, 2}", "{'a': {'b': {}}}",
    "( 1 , )", "[ ]",
]
SYNTAX = [
    "1", "a b", "a, a", "a=1, b", "a=1, /, b", "/", "a, /, /", "*, /", "*", "a, *", "*, *", "*a, *b", "*, **k", "**k, a", "**k, *a", "**k, **j", "*a=1",
    "**k=1", "a=", "a:", "class", "None", "a, , b", ", a", "a, *, /", "a=(1", "a=[1)", "a='x",
]


def typed(value):
    """A text that tells apart what Python tells apart."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return f"int {value}"
    if isinstance(value, float):
        return f"float {value!r}"
    if isinstance(value, str):
        return "str " + value.encode().hex()
    if isinstance(value, bytes):
        return "bytes " + value.hex()
    if isinstance(value, dict):
        return "map{" + "; ".join(f"{typed(k)} = {typed(v)}" for k, v in value.items()) + "}"
    name = {list: "list", tuple: "tuple", set: "set"}[type(value)]
    items = sorted(value) if name == "set" else value
    return name + "[" + "; ".join(map(typed, items)) + "]"


def bound(signature, args, kwargs):
    """What a real call gives: `inspect` of 3.11 misreads a positional-only name in **kwargs."""
    scope = {}
    exec(f"def f({signature}): return locals()", scope)
    function = scope["f"]
    names = list(inspect.signature(function).parameters)
    try:
        values = function(*args, **kwargs)
    except TypeError as error:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError as reason:
            text = str(reason)
            return "missing" if text.startswith("missing a required argument") else "refused"
        return "refused"
    return json.dumps([values[name] for name in names])


for signature in SIGNATURES:
    for args, kwargs in CALLS:
        print("bind", signature, json.dumps(args), json.dumps(kwargs), bound(signature, args, kwargs), sep="\t")
for text in DEFAULTS:
    print("default", text, typed(ast.literal_eval(text)), sep="\t")
for signature in SYNTAX:
    try:
        compile(f"def f({signature}): pass", "signature", "exec")
    except SyntaxError:
        print("syntax", signature, sep="\t")
    else:
        raise SystemExit(f"Python takes {signature!r}")
