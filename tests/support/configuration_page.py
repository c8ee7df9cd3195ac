"""Generate docs/configuration.md from the configuration's schema: `python tests/support/configuration_page.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `make docs`, which runs this file by its path

from streamclf.config.outlets import OUTLETS
from streamclf.config.service import ServiceConfig

PAGE: Final = Path(__file__).parents[2] / "docs" / "configuration.md"
WRITTEN_AS_TEXT: Final = {
    "keep": "duration",
    "keep_uncertain": "duration",
    "keep_size": "size",
    "before_size": "size",
    "last_size": "size",
    "mask": "list of shapes",
}
"""Types of texts that hold a number and a unit, which the schema calls strings, and of shapes."""
INTRODUCTION: Final = """\
# Configuration reference

`streamclf run FILE` and `streamclf check FILE` read one YAML file. This page lists every key. `make docs` generates it
from the code, and a test compares the two. [sources.md](sources.md) and [actions.md](actions.md) explain the keys with
examples; [operations.md](operations.md#change-the-configuration-while-it-runs) says which changes apply to a running
service.

- Unknown keys are errors.
- `${NAME}` in a value is replaced from the environment, else from the file `NAME.env` beside `NAME.yaml`. Keep
  credentials there ([sources.md](sources.md)).
- Relative paths are relative to the directory of the file.
- The file has at most 1 MiB, 32 levels and 200,000 values, with those that aliases repeat. Dates are texts. Tags other
  than those of YAML's basic types are errors.
- Errors show no value of `url`, `push_secret` and other keys that may hold a password.
"""


def configuration_page() -> str:
    """Return the text of docs/configuration.md."""
    schema = ServiceConfig.model_json_schema()
    definitions = schema["$defs"]
    parts = [INTRODUCTION]
    sections = (
        ("Top level", "", schema),
        ("engine", "`engine:` says how the model runs.", definitions["EngineConfig"]),
        (
            "streams",
            "`streams:` maps a name (1 to 64 characters of `A-Z a-z 0-9 _ -`) to one stream.",
            definitions["StreamConfig"],
        ),
        ("actions", "`actions:` maps a label to its rules.", definitions["ActionConfig"]),
        ("publish", "`publish:` says where events go.", definitions["PublishConfig"]),
        ("clips", "`clips:` saves films of the actions ([clips.md](clips.md)).", definitions["ClipsConfig"]),
        (
            "examples",
            "`examples:` lets the page save example films, to teach models ([page.md](page.md#teach)).",
            definitions["ExamplesConfig"],
        ),
        (
            "outlets",
            "`outlets:` names the systems that the service hands its events to ([outlets.md](outlets.md)). A list "
            "instead of a section gives several of a kind, each with a `name`.",
            definitions["OutletsConfig"],
        ),
        *(
            (
                f"outlets: {kind}",
                f"`outlets: {{{kind}: ...}}`: {definitions[each.__name__]['description']}",
                definitions[each.__name__],
            )
            for kind, each in OUTLETS.items()
        ),
    )
    for title, text, section in sections:
        parts.append(f"## {title}\n")
        if text:
            parts.append(f"{text}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        required = section.get("required", [])
        parts.extend(_row(key, value, key in required, definitions) for key, value in section["properties"].items())
        parts.append("")
    return "\n".join(parts)


def _row(key: str, value: dict[str, Any], required: bool, definitions: dict[str, Any]) -> str:
    default = "required" if required else _default(value)
    # Pydantic leaves a description out where it equals that of the section it refers to.
    described = value if "description" in value else definitions.get(value.get("$ref", "").rpartition("/")[2], {})
    meaning = described.get("description", "").replace("|", "\\|").replace("\n", " ")
    kind = _type(value, definitions)
    kind = WRITTEN_AS_TEXT.get(key, kind) if kind == "text" or key == "mask" else kind
    return f"| `{key}` | {kind} | {default} | {meaning} |"


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default in (None, {}, []) or isinstance(default, dict):
        return ""
    if isinstance(default, list):
        return ", ".join(f"`{each}`" for each in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return "section" if definitions[name].get("type") == "object" else _type(definitions[name], definitions)
    if "anyOf" in value or "oneOf" in value:
        choices = value.get("anyOf") or value["oneOf"]
        kinds = [_type(kind, definitions) for kind in choices if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    kind = value.get("type", "any")
    if kind == "object":
        return "mapping"
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])} numbers"
    if kind == "array":
        return f"list of {_type(value.get('items', {}), definitions)}".replace("list of section", "list of sections")
    name = {"boolean": "`true`, `false`", "integer": "integer", "number": "number", "string": "text"}.get(kind, kind)
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum", value.get("exclusiveMaximum"))
    if low is not None and high is not None:
        more = "more than " if "exclusiveMinimum" in value else ""
        return f"{name}, {more}{_number(low)} to {_number(high)}"
    if low is not None:
        return f"{name}, {'more than' if 'exclusiveMinimum' in value else 'at least'} {_number(low)}"
    return name


if __name__ == "__main__":
    PAGE.write_text(configuration_page())
