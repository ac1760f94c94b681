from __future__ import annotations

import msgspec
import pytest

from proxy.config.schema import HttpConfig, ListenerConfig, ProxyConfig, SiteConfig


def test_a_site_is_called_by_its_first_name() -> None:
    assert SiteConfig(names=("a.test", "b.test"), certificates=("c",), upstream="web").name == "a.test"


def test_values_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        ListenerConfig(address="127.0.0.1:1").address = "x"  # type: ignore[misc]


def test_every_section_refuses_unknown_fields() -> None:
    def structs(info: msgspec.inspect.Type) -> list[type]:
        if isinstance(info, msgspec.inspect.StructType):
            return [info.cls, *(cls for field in info.fields for cls in structs(field.type))]
        return structs(info.item_type) if isinstance(info, msgspec.inspect.VarTupleType) else []

    found = structs(msgspec.inspect.type_info(ProxyConfig))
    assert len(found) == 12
    assert all(cls.__struct_config__.forbid_unknown_fields and cls.__struct_config__.frozen for cls in found)


def test_a_line_end_in_via_is_refused() -> None:
    assert msgspec.convert({"via": "proxy-1"}, HttpConfig).via == "proxy-1"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"via": "proxy-1\n"}, HttpConfig)
