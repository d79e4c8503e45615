"""No setting is there for nothing: product code reads each one."""

import ast

from configs import paths, schema
from jobs.training.watchdog.watchdog import Rule
from tests.unit.test_rooms import MAY_IMPORT

BY_NAME = {f"on_{rule}" for rule in Rule}
"""`jobs.training.watchdog` reads what a rule does by the rule's name."""


def test_every_setting_is_read_somewhere_in_product_code():
    read = set(BY_NAME)
    for room in MAY_IMPORT:
        for file in (paths.SOURCE / room).rglob("*.py"):
            if file != paths.SOURCE / "configs" / "schema.py":
                nodes = ast.walk(ast.parse(file.read_text()))
                read |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    sections = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, schema.Section)]
    unread = [f"{kind.__name__}.{name}" for kind in sections for name in kind.model_fields if name not in read]
    assert unread == [], "drop the setting, or use it"
