"""matplotlib's pyplot as training uses it: it draws into files, with every font that is installed."""

import matplotlib

from modeling_eclip.plots.fonts import fonts

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

plt.rcParams["font.family"] = list(fonts()[0])

__all__ = ["plt"]
