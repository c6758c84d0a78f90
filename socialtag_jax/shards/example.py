"""The record's content: a tf.train.Example, encoded and parsed without TensorFlow.

The message types are built at run time in a private descriptor pool, so that they never collide with TensorFlow's own
(`tensorflow/core/example/{example,feature}.proto`).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from socialtag_jax.errors import UserError

_HINT = "features.json must list image (Image), image_id (Text) and tags (Sequence of ClassLabel)"


@dataclass(frozen=True, slots=True)
class Record:
    """One tagged image.

    Attributes:
      image: the encoded image (JPEG, as `socialtag prepare` writes it).
      image_id: the photo's path relative to its data set.
      tags: ascending vocabulary indices.
    """

    image: bytes
    image_id: str
    tags: tuple[int, ...]


@cache
def _example_class() -> Any:
    """The message class of tf.train.Example (protobuf classes made at run time have no static type)."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="socialtag_jax/example.proto", package="tensorflow", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, int, str | None]) -> Any:
        entry = file.message_type.add(name=name)
        for number, (field_name, label, kind, type_name) in enumerate(fields, start=1):
            added = entry.field.add(name=field_name, number=number, label=label, type=kind)
            if type_name is not None:
                added.type_name = type_name
        return entry

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    add("BytesList", ("value", many, field.TYPE_BYTES, None))
    add("FloatList", ("value", many, field.TYPE_FLOAT, None))
    add("Int64List", ("value", many, field.TYPE_INT64, None))
    kinds = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    feature = add("Feature", *((name, one, field.TYPE_MESSAGE, f".tensorflow.{kind}") for name, kind in kinds))
    feature.oneof_decl.add(name="kind")
    for choice in feature.field:
        choice.oneof_index = 0
    features = add("Features", ("feature", many, field.TYPE_MESSAGE, ".tensorflow.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    add("Example", ("features", one, field.TYPE_MESSAGE, ".tensorflow.Features"))

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def encode_example(record: Record) -> bytes:
    """Serialises a record; equal records give equal bytes."""
    example = _example_class()()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["image_id"].bytes_list.value.append(record.image_id.encode())
    feature["tags"].int64_list.value.extend(record.tags)
    return example.SerializeToString(deterministic=True)


def parse_example(data: bytes, *, n_tags: int) -> Record:
    """Parses a record written by `encode_example`, or by TFDS with the same features.

    Args:
      data: the serialised example.
      n_tags: the size of the vocabulary that the tags point into.

    Raises:
      UserError: the data is not an example with these features, or a tag lies outside the vocabulary. It does not say
        where: putting that into words takes longer than parsing.
    """
    try:
        feature = _example_class().FromString(data).features.feature
    except (message.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not a tf.train.Example ({error})", hint=_HINT) from error
    # Looking a missing feature up adds an empty one.
    images, ids, tag_feature = feature["image"].bytes_list.value, feature["image_id"].bytes_list.value, feature["tags"]
    if len(images) != 1 or len(ids) != 1:
        key, values = ("image_id", ids) if len(images) == 1 else ("image", images)
        raise UserError(f"feature {key!r} has {len(values)} byte values, expected 1", hint=_HINT)
    if tag_feature.WhichOneof("kind") not in ("int64_list", None):
        raise UserError("feature 'tags' does not hold int64 values", hint=_HINT)
    tags = tuple(sorted(set(tag_feature.int64_list.value)))
    if tags and not 0 <= tags[0] <= tags[-1] < n_tags:
        raise UserError(f"tag indices {tags} reach outside the vocabulary of {n_tags} tags", hint=_HINT)
    try:
        return Record(images[0], ids[0].decode(), tags)
    except UnicodeDecodeError as error:
        raise UserError(f"feature 'image_id' is not UTF-8 ({error})", hint=_HINT) from error
