"""What facades are made of. Lengths are shares of the scene's width, colours RGB in hexadecimal."""

import re
from collections import namedtuple

import numpy as np

# Colours of COLORED; textures of wall, ground floor and roof; a key of ASSEMBLIES; limits of the
# roof's height, and of the floors above the ground floor; a window's width / bay, height / floor,
# and at most width / height; its glass and railing, keys of LAYERS; how probable each ornament is.
Family = namedtuple("Family", "colors textures roof low high fewest most breadth height aspect "
                    "glazing railing has")  # fmt: skip
# Blocks of row x col with joints as wide as a line, every second row moved by `bond` blocks; how
# brightness changes from block to block (tone), in blobs of size `cell` (noise), towards a row's
# foot (fall); colour and strength of the joints or, in place of them, of blobs (spots).
Texture = namedtuple("Texture", "row col line bond tone noise cell joint strength fall spots",
                     defaults=(1, 1, 0, 0, 0, 0, 0.1, "#000", 0, 0, 0))  # fmt: skip
# A colour of COLORED or hexadecimal, brightness at top and foot, a texture ("-": none), how much it
# covers between its joints, and for some another colour at the foot.
Material = namedtuple("Material", "color top foot texture alpha fade", defaults=(1, 1, "-", 1, ""))
# A material, or a part of a class of PALETTE, in shares of the box that it belongs to; a shape of
# SHAPES ("=": that of what it belongs to); a part has what LAYERS has for its class, or `layers`.
Layer = namedtuple("Layer", "material left top right bottom shape", defaults=(0, 0, 1, 1, "rect"))
Part = namedtuple("Part", "kind left top right bottom shape layers", defaults=("rect", ""))


def read(text: str) -> list[list]:
    """The rows of a table: words and numbers between spaces, rows between semicolons."""
    number = re.compile(r"-?[.\d]+").fullmatch
    rows = (row.split() for row in text.split(";"))
    return [[float(word) if number(word) else word for word in row] for row in rows]


def read_family(text: str) -> Family:
    """One row of FAMILIES."""
    colors, textures, numbers, has = read(text)
    return Family(colors, textures, *numbers, dict(zip(has[::2], has[1::2], strict=True)))


# fmt: off
PALETTE = {  # a colour for each class, along a rainbow as in the CMP Facade Database
    "sky": (0, 0, 85), "background": (0, 0, 170), "wall": (0, 0, 255), "molding": (85, 85, 255),
    "window": (0, 170, 255), "cornice": (0, 255, 170), "sill": (85, 255, 85), "roof": (170, 0, 170),
    "balcony": (170, 255, 0), "blind": (255, 255, 0), "door": (255, 85, 0), "shop": (170, 0, 0),
    "pillar": (255, 170, 0), "chimney": (255, 0, 170), "plant": (0, 128, 0), "street": (85, 85, 85),
}
DEPTHS = {  # how far a class stands out of the wall: so long is its shadow
    "cornice": 0.012, "sill": 0.010, "balcony": 0.030, "blind": 0.006, "molding": 0.005,
    "pillar": 0.008, "roof": 0.020, "plant": 0.008,
}
COLORED = ("wall", "ground", "trim", "frame", "door", "blind", "roof", "awning")
FAMILIES = {name: read_family(text) for name, text in {
    "brick": "#c27559 #c27559 #ede8db #f5f2eb #1a4c38 #334c4c #666b78 #265947; brick brick slate;"
             "gable .13 .19 2 3 .50 .68 .78 sash iron; dormers .42 bushes 1 hood .9 shop .3",
    "stone": "#e0d1b2 #d1c2a3 #f2e8d1 #ede8de #2b406b #999999 #6b788c #8c2126; ashlar rustic slate;"
             "mansard .14 .18 2 3 .46 .72 .78 casement iron; dormers .5 archway 1 arch .3 hood .6 "
             "molding 1 balcony .6 course 1 pillars .6 shop .3",
    "ochre": "#f2c985 #e0b275 #f5eddb #e6dbc7 #754224 #3d735c #c76945 #cc5433;"
             "plaster plaster tiles; hip .08 .12 2 3 .40 .66 .78 casement iron;"
             "bushes 1 archway 1 blinds 1 balcony .3 course .2 plants .4 shop .4",
    "rose": "#e09e8a #ccb8a3 #f5edde #f2ede3 #335c61 #808080 #9e5442 #4c4c4c; plaster rustic tiles;"
            "hip .10 .15 2 3 .46 .66 .78 casement iron;"
            "bushes 1 archway 1 molding 1 hood .5 balcony .3 course 1 plants .4",
    "stucco": "#e6e3d6 #dedbcf #f7f5ed #f5f5f0 #171a1f #808080 #666b73 #4c4c4c;"
              "plaster rustic slate; parapet .04 .06 2 3 .44 .70 .78 sash iron;"
              "arch .4 hood .8 balcony .5 course .5 pillars 1",
    "modern": "#d6d4cc #9e948c #b8bdbf #40454c #ad733d #999999 #8f949c #2e384c;"
              "panels panels panels; flat .05 .08 2 4 .70 .62 9 wide glass; balcony .5 shop .8",
}.items()}
CHIMNEYS = "left chimney .23 -.25 .3 .8; right chimney .7 -.25 .77 .8; "
ASSEMBLIES = {name: [(needs, Part(*row)) for needs, *row in read(text)] for name, text in {
    "wall": "- wall 0 0 1 1; pillars pillar .006 .02 .047 1; pillars pillar .953 .02 .994 1",
    "ground": "- wall 0 0 1 1 rect ground",
    "window": "molding molding -.15 -.09 1.15 1 =; - window 0 0 1 1 = glazing; "
              "hood cornice -.23 -.18 1.23 -.06; - sill -.18 1 1.18 1.1; "
              "plants plant 0 .77 1 1.01 rect flowers; blinds blind -.48 -.03 -.02 1.03; "
              "blinds blind 1.02 -.03 1.48 1.03; balcony balcony -.26 .58 1.26 1.11 rect railing",
    "door": "- molding -.14 -.09 1.14 1 =; - door 0 0 1 1.02 =; "
            "square cornice -.26 -.19 1.26 -.07; bushes plant -.43 .6 -.12 1.03 round; "
            "bushes plant 1.12 .6 1.43 1.03 round",
    "dormer": "- molding 0 .3 1 1; - window .16 .37 .84 1 rect wide; - cornice -.1 0 1.1 .3 gable",
    "gable": CHIMNEYS + "- roof -.035 0 1.035 1 steep; - cornice -.02 .93 1.02 1.07 rect crown",
    "mansard": CHIMNEYS + "- roof -.005 0 1.005 1 mansard; - cornice -.025 .9 1.025 1.1 rect crown",
    "hip": CHIMNEYS + "- cornice -.01 .95 1.01 1.15; - roof -.05 0 1.05 1.08 hip",
    "parapet": CHIMNEYS + "- wall 0 0 1 1; - cornice -.01 -.13 1.01 .13; "
               "- cornice -.025 .7 1.025 1.3 rect crown",
    "flat": "left roof .2 0 .38 1; right roof .6 0 .78 1; - cornice -.01 .85 1.01 1.2 rect crown",
}.items()}
SHAPES = {  # of y from 0 at the top to 1, x from -1 to 1, and width / height
    "rect": lambda y, x, aspect: (y >= 0) & (x >= -1),
    "arch": lambda y, x, aspect: x**2 + (1 - y / min(aspect / 2, 0.5)).clip(0) ** 2 <= 1,
    "round": lambda y, x, aspect: x**2 + (2 * y - 1) ** 2 <= 1,
    "gable": lambda y, x, aspect: abs(x) <= y,
    "steep": lambda y, x, aspect: abs(x) <= 0.86 + 0.14 * y,
    "mansard": lambda y, x, aspect: abs(x) <= 0.90 + 0.10 * np.sqrt(y),
    "hip": lambda y, x, aspect: abs(x) <= 0.72 + 0.28 * y,
    "slant": lambda y, x, aspect: abs(x + 0.9 * y - 0.6) < 0.22,
    "curtain": lambda y, x, aspect: abs(x) > 0.76 - 0.30 * (1 - y) ** 2,
}
TEXTURES = {name: Texture(*row) for name, *row in read("""
    -; brick .0125 .034 .003 .5 .13 .05 .12 #ccbdab .55;
    slate .0145 .02 .002 .5 .1 .05 .1 #000 .1 .32; ashlar .032 .085 .004 .5 .035 .05 .05 #000 .12;
    rustic .036 .11 .004 .5 .035 .05 .05 #000 .24; panels .075 .075 .003 0 0 .02 .2 #000 .13;
    tiles .02 .0165 0 0 .13 .05 .1 #000 0 .35; storeys .1 .065 .036 0 0 0 1 #aeaeb6 1;
    mullions 1 .1 .008 0 0 0 1 awning 1; stripes 1 .032 .016 0 0 0 1 #f2ebdb 1;
    letters 1 .014 .007 0 0 0 1 #edd18c 1; bars 1 .0115 .004 0 0 0 1 #1a1a1f 1;
    posts 1 .05 .004 0 0 0 1 #595e66 1; teeth 1 .016 .008 0 0 0 1 #000 .28;
    slabs 1 .07 .003 0 0 .05 .04 #000 .14; slats .0085 1 0 0 0 0 1 #000 0 -.42;
    flutes 1 .009 .003 0 0 0 1 #000 .2; goods 1 .02 0 0 .35 .3 .015; plaster 1 1 0 0 0 .05 .15;
    grain 1 1 0 0 0 .1 .012; leaves 1 1 0 0 0 .45 .012; clouds 1 1 0 0 0 0 .22 #f7f7f5 1 0 1.6;
    flowers 1 1 0 0 0 0 .008 #db3338 .95 0 9""")}
MATERIALS = {name: Material(*row) for name, *row in read("""
    sky #5c94e0 1 1 clouds 1 #cce0f2; neighbor #828a9c 1.03 .95 storeys; wall wall 1 1 wall;
    ground ground 1.02 .93 ground; roof roof 1.1 .9 roof; ridge roof 1.3 .8; cap #bdb3a8 1.1 .8;
    stack #a86652 1 1 brick; trim trim 1.02 .97; slab trim 1.04 .72; teeth trim .8 .7 teeth;
    shaft trim 1 1 flutes; frame frame .98 .9; glass #5f82a8 1 1 - 1 #191e26;
    gleam #9eb2c7 1 1 - .3; cloth #fff2db .44 .5 - .62; shade #000 1 1 - .32;
    tint #000 1 1 - .15; leaf door 1.05 .9 grain; panel door .55 1.15; brass #e0b859;
    shutter blind 1.12 1.12; slats blind .72 .72 slats; sign awning 1 .8; lamps #f2bd6b 1 1 - .32;
    letters awning 1 .8 letters; awning awning 1.3 1 stripes; goods #bf7350 .7 .5 goods .6;
    mullions awning 1 1 mullions 0; iron #1a1a1f; bars #1a1a1f 1 1 bars .3;
    scrolls #1a1a1f 1 1 - .5; pane #80a8b3 1.1 .85 posts .62; leaves #457833 1.2 .75 leaves;
    box #8c5c3d 1.1 .8; flowers #457833 1.2 .9 flowers; asphalt #616166 1 1 grain;
    kerb #ccc9c4 1.1 .6; slabs #b3ada6 .84 1.04 slabs""")}
PANES = ("frame; glass .09 .05 .91 .96 =; cloth .09 .05 .91 .96 curtain; "
         "gleam .09 .05 .91 .96 slant; ")
REVEAL = "; shade 0 0 1 .06; shade 0 0 1 .11; shade 0 0 .07 1"
LAYERS = {kind: [Layer(*row) for row in read(text)] for kind, text in {
    "sky": "sky", "background": "neighbor", "wall": "wall", "plant": "leaves", "sill": "slab",
    "ground": "ground; tint 0 .86 1 1; tint 0 .94 1 1", "roof": "roof; ridge 0 0 1 .06",
    "chimney": "stack; cap 0 0 1 .15", "flowers": "flowers; box 0 .68 1 1",
    "sash": PANES + "frame .48 0 .52 1; frame 0 .26 1 .28; frame 0 .48 1 .525; frame 0 .75 1 .77"
            + REVEAL,
    "casement": PANES + "frame .46 0 .54 1; frame 0 .28 1 .325; frame 0 .64 1 .66" + REVEAL,
    "wide": PANES + "frame .33 0 .36 1; frame .65 0 .67 1" + REVEAL,
    "door": "leaf; glass .09 .05 .91 .26 =; leaf .46 0 .54 .26; panel .09 .31 .46 .52; "
            "panel .54 .31 .91 .52; panel .09 .57 .46 .67; panel .54 .57 .91 .67; "
            "panel .09 .72 .46 .94; panel .54 .72 .91 .94; shade .485 .26 .515 1; "
            "brass .4 .6 .45 .64; brass .55 .6 .6 .64" + REVEAL,
    "shop": "sign; letters .3 .05 .7 .14; awning 0 .2 1 .4; glass .02 .4 .98 .87; "
            "lamps .02 .4 .98 .87; goods .02 .72 .98 .87; mullions 0 .4 1 .87; "
            "shade 0 .4 1 .47; shade 0 .4 1 .5; shade .03 .9 .97 .92",
    "molding": "trim; tint .03 .03 .97 1 =; trim .05 .04 .95 1 =",
    "cornice": "trim; tint 0 .22 1 1; shade 0 .62 1 1",
    "crown": "trim; tint 0 .22 1 .62; teeth 0 .62 1 1",
    "pillar": "shaft; slab 0 0 1 .05; slab 0 .95 1 1",
    "blind": "shutter; slats .12 .05 .88 .47; slats .12 .52 .88 .95",
    "iron": "bars; scrolls 0 .24 1 .42; iron 0 0 1 .1; slab 0 .75 1 1",
    "glass": "pane; iron 0 0 1 .08; slab 0 .75 1 1",
    "street": "asphalt; slabs 0 0 1 .46; kerb 0 .46 1 .53",
}.items()}
# fmt: on
