"""The messages of TensorFlow's files that an importer needs, by field number.

Owns the tables only. Fields left out (devices, debug information, optimiser state...) are skipped while reading.
"""

from __future__ import annotations

from .wire import Field, Schema


def _schema(name: str, /, **fields: tuple[int, str] | tuple[int, str, Schema | None]) -> Schema:
    """``field=(number, kind)``; a kind that ends in ``*`` repeats."""
    table = {}
    for key, (number, kind, *message) in fields.items():
        repeated = kind.endswith("*")
        table[number] = Field(key, kind.rstrip("*"), repeated, message[0] if message else None)
    return Schema(name, table)


DIM = _schema("Dim", size=(1, "int"))
SHAPE = _schema("TensorShapeProto", dim=(2, "message*", DIM), unknown_rank=(3, "bool"))
TENSOR = _schema(
    "TensorProto",
    dtype=(1, "int"), shape=(2, "message", SHAPE), content=(4, "bytes"), half_val=(13, "int*"), float_val=(5, "float*"),
    double_val=(6, "double*"), int_val=(7, "int*"), string_val=(8, "bytes*"), int64_val=(10, "int*"),
    bool_val=(11, "bool*"), uint32_val=(16, "int*"), uint64_val=(17, "int*"), scomplex_val=(9, "float*"),
    dcomplex_val=(12, "double*"),
)  # fmt: skip
ATTR = Schema("AttrValue")
FUNC = _schema("NameAttrList", name=(1, "string"), attr=(2, "map", ATTR))
LIST = _schema(
    "ListValue",
    s=(2, "bytes*"), i=(3, "int*"), f=(4, "float*"), b=(5, "bool*"), type=(6, "int*"), shape=(7, "message*", SHAPE),
    tensor=(8, "message*", TENSOR), func=(9, "message*", FUNC),
)  # fmt: skip
ATTR.fields.update(
    _schema(
        "AttrValue",
        s=(2, "bytes"), i=(3, "int"), f=(4, "float"), b=(5, "bool"), type=(6, "int"), shape=(7, "message", SHAPE),
        tensor=(8, "message", TENSOR), list=(1, "message", LIST), func=(10, "message", FUNC),
        placeholder=(9, "string"),
    ).fields
)  # fmt: skip
NODE = _schema("NodeDef", name=(1, "string"), op=(2, "string"), input=(3, "string*"), attr=(5, "map", ATTR))
ARG = _schema(
    "ArgDef", name=(1, "string"), type=(3, "int"), type_attr=(4, "string"), number_attr=(5, "string"),
    type_list_attr=(6, "string"),
)  # fmt: skip
OPDEF = _schema("OpDef", name=(1, "string"), input_arg=(2, "message*", ARG), output_arg=(3, "message*", ARG))
# Most functions of a SavedModel (those of training, of saving...) are never called by what is imported.
FUNCTION = _schema(
    "FunctionDef", signature=(1, "message", OPDEF), node_def=(3, "late*", NODE), ret=(4, "map", None),
    control_ret=(6, "map", None),
)  # fmt: skip
LIBRARY = _schema("FunctionDefLibrary", function=(1, "message*", FUNCTION))
GRAPH = _schema("GraphDef", node=(1, "message*", NODE), library=(2, "message", LIBRARY))
SAVER = _schema(
    "SaverDef", filename_tensor_name=(1, "string"), save_tensor_name=(2, "string"), restore_op_name=(3, "string")
)
TENSOR_INFO = _schema("TensorInfo", name=(1, "string"), dtype=(2, "int"), shape=(3, "message", SHAPE))
SIGNATURE = _schema(
    "SignatureDef", inputs=(1, "map", TENSOR_INFO), outputs=(2, "map", TENSOR_INFO), method=(3, "string")
)
META_INFO = _schema("MetaInfoDef", tags=(4, "string*"))
CHILD = _schema("ObjectReference", node=(1, "int"), name=(2, "string"))
OBJECT = _schema("SavedObject", children=(1, "message*", CHILD))
FUNCTION_OBJECT = _schema("SavedConcreteFunction", captured=(2, "int*"))
OBJECT_GRAPH = _schema("SavedObjectGraph", nodes=(1, "message*", OBJECT), functions=(2, "map", FUNCTION_OBJECT))
META_GRAPH = _schema(
    "MetaGraphDef",
    info=(1, "message", META_INFO), graph=(2, "message", GRAPH), saver=(3, "message", SAVER),
    signatures=(5, "map", SIGNATURE), objects=(7, "message", OBJECT_GRAPH),
)  # fmt: skip
SAVED_MODEL = _schema("SavedModel", version=(1, "int"), meta_graphs=(2, "message*", META_GRAPH))
EXTENT = _schema("TensorSliceProto.Extent", start=(1, "int"), length=(2, "int"))
SLICE = _schema("TensorSliceProto", extent=(1, "message*", EXTENT))
BUNDLE_HEADER = _schema("BundleHeaderProto", num_shards=(1, "int"), endianness=(2, "int"))
BUNDLE_ENTRY = _schema(
    "BundleEntryProto",
    dtype=(1, "int"), shape=(2, "message", SHAPE), shard=(3, "int"), offset=(4, "int"), size=(5, "int"),
    crc=(6, "fixed32"), slices=(7, "message*", SLICE),
)  # fmt: skip
