"""How the demo postcards are planned and painted; `socialtag_jax.sources.postcards` is the way in.

`plan` decides what is in a picture and which tags it gets; `painting` paints a plan. The rest is the painter's box:
`canvas` (paper, pen, noise), `light` (palettes), `stage` (what every painter is handed), `sky`, `water`, `land`,
`town`, `places` (whole backdrops), `plants`, `beings`, `objects`, `closeups` (what fills the frame).
"""
