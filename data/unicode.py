#!/usr/bin/env python3
"""unicode.py > unicode.def: the tables of unicode.c, as the library of tokenizers 0.23 has them: general categories of
Unicode 16 (its Oniguruma), from the package unicodedata2 16.0.0; combining classes and canonical decompositions of its
older NFC, which is Unicode's of Python without the characters that it does not know. The check "tokenizers/characters"
of tests/oracle.py holds every character against that library."""
import sys
import unicodedata as U

import tokenizers
import unicodedata2

EVERY = range(0x110000)
NFC = tokenizers.normalizers.NFC().normalize_str


def combining(c):
    """The class that it orders by: a mark that it knows changes places with one of the class 1, or 220."""
    kind = U.combining(c)
    moves = kind and (NFC(c + "\u0334") != c + "\u0334" if kind > 1 else NFC("\u0323" + c) != "\u0323" + c)
    return kind if moves else 0


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
        if not composes or NFC(chr(int(first, 16)) + chr(int(second, 16))) == chr(code):
            yield f"P({code:X},{first},{second},{composes:d})"


print(f"// unicode.def: categories of Unicode {unicodedata2.unidata_version}, NFC of tokenizers "
      f"{tokenizers.__version__}; written by data/unicode.py.")
print("// R(first character, category of it and those that follow)")
print("#ifdef R")
print_rows(f"R({code:X},{category})" for code, category in runs(unicodedata2.category))
print("#endif")
print("// C(first character, canonical combining class of it and those that follow)")
print("#ifdef C")
print_rows(f"C({code:X},{kind})" for code, kind in runs(combining))
print("#endif")
print("// P(character, what it decomposes into: one or two characters, whether these are composed again)")
print("#ifdef P")
print_rows(pairs())
print("#endif")
sys.stdout.flush()
