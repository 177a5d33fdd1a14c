"""A little world of objects that move, rendered and captioned: what the default model learns, and is measured by.

`words` says what a clip shows, `scene` where everything is, `render` draws it, `look` measures what a clip shows.
"""
