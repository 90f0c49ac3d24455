"""`python -m pipeline.matrix > matrix.schema.json` writes the schema of the matrix anew."""

import json
import sys

from pipeline.matrix import schema

sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
