"""Entity extraction: what a text speaks of, as objects of a type that the application has. `extract.py TEXT`"""

from __future__ import annotations

import sys

import dspex


def main(text: str) -> None:
    """Print each entity with its kind."""
    with dspex.connect(wait=10) as client, client.create_session() as session:
        extract = session.create_program("extract", "text -> entities: list[Entity]")
        for entity in extract(text=text).entities:
            print(f"{entity['kind']}: {entity['name']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "Ada Lovelace wrote to Charles Babbage in London.")
