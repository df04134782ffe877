"""The small models, by name."""

from .boogu import BOOGU
from .flux import FLUX, FLUX_2, HUNYUAN_VIDEO
from .kandinsky5 import KANDINSKY_5
from .krea2 import KREA_2
from .lens import LENS
from .ltxv import LTXV
from .sd3 import SD3
from .wan import WAN

ARCHITECTURES = {
    "sd3": SD3,
    "flux": FLUX,
    "flux2": FLUX_2,
    "hunyuan_video": HUNYUAN_VIDEO,
    "wan": WAN,
    "ltxv": LTXV,
    "krea2": KREA_2,
    "kandinsky5": KANDINSKY_5,
    "lens": LENS,
    "boogu": BOOGU,
}
