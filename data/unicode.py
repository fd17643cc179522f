#!/usr/bin/env python3
"""unicode.py > unicode.def: categories, combining classes and canonical decompositions of Unicode, as Python's
unicodedata has them, for unicode.c."""
import sys
import unicodedata as U

EVERY = range(0x110000)


def runs(value):
    """(first character, value) wherever the value changes."""
    last = None
    for code in EVERY:
        now = value(chr(code))
        if now != last:
            yield code, now
        last = now


def print_rows(rows):
    line = ""
    for row in rows:
        if len(line) + len(row) > 119:
            print(line.rstrip())
            line = ""
        line += row + " "
    print(line.rstrip())


def pairs():
    for code in EVERY:
        parts = U.decomposition(chr(code))
        if not parts or parts.startswith("<"):
            continue
        first, second = (parts.split() + ["0"])[:2]
        composes = U.normalize("NFC", chr(code)) == chr(code)
        yield f"P({code:X},{first},{second},{composes:d})"


print(f"// unicode.def: Unicode {U.unidata_version}, written by data/unicode.py.")
print("#define UNICODE_VERSION " + '"' + U.unidata_version + '"')
print("// R(first character, category of it and those that follow)")
print("#ifdef R")
print_rows(f"R({code:X},{category})" for code, category in runs(U.category))
print("#endif")
print("// C(first character, canonical combining class of it and those that follow)")
print("#ifdef C")
print_rows(f"C({code:X},{kind})" for code, kind in runs(U.combining))
print("#endif")
print("// P(character, what it decomposes into: one or two characters, whether these are composed again)")
print("#ifdef P")
print_rows(pairs())
print("#endif")
sys.stdout.flush()
