"""Token texts that try to break a page, or to be executed by it."""

from __future__ import annotations

RUN = "/run/hostile"
KEY = "h.0.mlp.c_fc:1"  # one of its components
TEXTS = [
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=2</script>",
    "<img src=x onerror=window.pwned=3>",
    '"><svg onload=window.pwned=4>',
    "'\"`${window.pwned=5}",
    "javascript:window.pwned=6",
    "</title></style></textarea><b>",
    "&lt;&amp;&#x27;",
    "{{ 7 * 7 }}{% raw %}",
    "]]>--><!--",
    "\x00\x01\x1b[31m",
    "\u202etxet desrever",  # right-to-left override
    "\u200b\u2060\ufeff",  # nothing to be seen
    " ",
    "   ",
    "\n",
    "\r\n\t",
    "\u00a0",
    "שלום",
    " مرحبا",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "\ufffd",
    "long" * 2500,
    "<i>" * 3334,
    "=cmd|'/c calc'!A1",
    "the",
    " the",
]
