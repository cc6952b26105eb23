"""Ops that are refused on purpose, with the reason.

Owns the words. An op that is neither here nor lowered is refused as having no lowering.
"""

from __future__ import annotations

from ..lower import HINTS, RANDOM, REFUSED

_RANDOM = "random numbers differ from call to call, which a bundle's results never do"
_TABLE = "lookup tables are not supported"
_STRING = "strings are not supported"
_CUT = "cut the graph behind it by naming its numeric result in inputs=, or "
_DEPENDENT = "the extent of its result depends on values, which is not supported yet"

for _name in (
    "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "RandomShuffle", "RandomGamma",
    "RandomPoisson", "RandomPoissonV2", "Multinomial", "ParameterizedTruncatedNormal", "StatelessRandomUniform",
    "StatelessRandomUniformV2", "StatelessRandomNormal", "StatelessRandomNormalV2", "StatelessTruncatedNormal",
    "StatelessRandomUniformInt", "StatelessRandomGetKeyCounter", "StatelessMultinomial", "RandomCrop",
):  # fmt: skip
    REFUSED[_name] = f"{_name}: {_RANDOM}"
    RANDOM.add(_name)
for _name in (
    "HashTable", "HashTableV2", "LookupTableFind", "LookupTableFindV2", "LookupTableImportV2", "MutableHashTableV2",
    "InitializeTableV2", "InitializeTableFromTextFileV2", "LookupTableSizeV2", "LookupTableExportV2",
    "LookupTableInsertV2", "MutableDenseHashTableV2", "AnonymousHashTable",
):  # fmt: skip
    REFUSED[_name] = f"{_name}: {_TABLE}"
    HINTS[_name] = _CUT
for _name in (
    "AsString", "StringJoin", "StringSplit", "StringSplitV2", "StringToHashBucketFast", "StaticRegexReplace",
    "RegexReplace", "StringLower", "StringUpper", "StringToNumber", "DecodeJpeg", "DecodePng", "DecodeRaw",
    "ParseExample", "ParseExampleV2", "StringLength", "Substr", "StringFormat", "ReadFile",
):  # fmt: skip
    REFUSED[_name] = f"{_name}: {_STRING}"
    HINTS[_name] = _CUT
for _name in ("SparseFillEmptyRows",):
    REFUSED[_name] = f"{_name}: {_DEPENDENT}"
