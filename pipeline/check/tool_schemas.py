"""The tools that the conversations offer to a chat template, as OpenAI function schemas."""

from __future__ import annotations

from typing import Any


def _function(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


PLACE = {"type": "string", "description": "A town <with its country>, such as São Paulo"}
UNIT = {"type": "string", "description": "Of degrees", "enum": ["celsius", "fahrenheit"], "default": "celsius"}
TOOLS = [
    _function("get_weather", 'Look up today\'s weather, as "sky" & degrees', {"place": PLACE, "unit": UNIT}, ["place"]),
    _function("list_ferries", "List the ferries that leave now", {}, []),
]
# Arguments of every type, as templates spell them out that write schemas as code.
TYPED = [
    _function(
        "get_forecast",
        "Look further ahead",
        {
            "places": {"type": "array", "description": "Towns", "items": {"type": "string"}, "nullable": True},
            "hours": {"type": "array", "description": "Of a day", "items": {"type": "integer"}},
            "limits": {"type": "array", "description": "Of degrees", "items": {"type": "number"}},
            "only": {"type": "array", "description": "Which of them", "items": {"type": "boolean"}},
            "days": {"type": "integer", "description": "How many", "minimum": 1, "default": 3},
            "wind": {"type": "number", "description": "At least", "nullable": True},
            "exact": {"type": "boolean", "description": "Without rounding", "default": False},
            "unit": UNIT,
            "boat": {
                "type": "object",
                "description": "Which is to sail",
                "properties": {
                    "name": {"type": "string", "description": "As painted"},
                    "crew": {"type": "integer", "description": "People on board"},
                },
                "required": ["name"],
            },
        },
        ["places", "days", "boat"],
    )
]
ELABORATE = [
    _function(
        "get_tides",
        "Look up the tides\nof a coast",
        {
            "days": {"type": ["integer", "null"], "minimum": 1},
            "at": {"anyOf": [{"type": "string", "format": "date"}, {"type": "number"}], "title": "At"},
            "from": {"oneOf": [{"type": "string", "description": "A port", "default": "Vigo"}, {"type": "number"}]},
            "parts": {
                "type": "array",
                "description": "Of a day",
                "items": {"type": "object", "properties": {"hour": {"type": "number"}}, "required": ["hour"]},
            },
            "grid": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "any": {"type": "array"},
            "more": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        ["days", "at"],
    )
]
ELABORATE[0]["function"] |= {"strict": True, "return": {"type": "object", "description": "High and low"}}
