"""JSON (RFC 8259) as the contract has it: what is malformed (4.7), when values are equal (3)."""
import json
import math
import re
from itertools import accumulate

from marshmallow import ValidationError

MAX_DEPTH = 200
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors begin a file with it
YAML = re.compile(rb"\s*(---|#|- |[\w\"']+:\s)")
NO_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^][{}"]++')


def finite(text):
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def without_repeats(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return value


DECODER = json.JSONDecoder(parse_float=finite, parse_constant=finite)
#: For what a person has written: a key twice in one object is a mistake.
STRICTER = json.JSONDecoder(parse_float=finite, parse_constant=finite,
                            object_pairs_hook=without_repeats)


def parse_json(raw, field="body", decoder=DECODER):
    """The value of UTF-8 JSON bytes. Raises ValidationError for what is malformed (4.7)."""
    try:
        text = raw.decode()
        value = decoder.decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH and depth(text) > MAX_DEPTH:
            raise RecursionError
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        message = f"not UTF-8 (byte {error.start})"
    except UnicodeEncodeError:
        message = "a lone surrogate (half of a \\u pair)"
    except RecursionError:
        message = f"nested deeper than {MAX_DEPTH} levels"
    except ValueError as error:  # Python's own words for long integers speak of its insides
        message = str(error)
        if message.startswith("Exceeds the limit"):
            message = "an integer of too many digits"
    else:
        return value
    raise ValidationError(f"malformed JSON: {message}", field)


def parse_file(raw):
    """As `parse_json`, for a file that a person has written."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return parse_json(raw, "file", STRICTER)
    except ValidationError as error:
        if not YAML.match(raw):
            raise
        raise ValidationError(f"{error.messages[0]}; this looks like YAML, and must be JSON",
                              "file") from error


def depth(text):
    """How many arrays and objects stand inside each other in a JSON text.

    On its brackets alone, [ a step down and ] one up: to walk through the value took as long as to
    parse it, and half as much memory.
    """
    brackets = NO_BRACKETS.sub("", text).replace("{", "[").replace("}", "]")
    return max(accumulate(map((92).__sub__, brackets.encode())), default=0)  # [ is 91, and ] 93


def parse_object(raw, field="body"):
    """As `parse_json`, for a JSON object only."""
    value = parse_json(raw, field)
    if not isinstance(value, dict):
        raise ValidationError("must be a JSON object", field)
    return value


def same_json(one, other):
    """Whether two JSON values are equal: 1 is 1.0, but true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
