"""`make simulate`: docs/scale.md, as it is with the pipeline as it is now."""

from . import page

print(page.page(), end="")
