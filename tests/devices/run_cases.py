"""Runs the tests of `cases_*.py` on the device of `fake_cuda.py`: `python run_cases.py LIBRARY [arguments of pytest]`.

A process of its own, since the guard has to be loaded before torch is imported.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def main() -> int:
    from guard import load_guard

    load_guard(Path(sys.argv[1]))

    import pytest
    import torch
    from fake_cuda import FakeCuda, install

    install()
    torch.set_num_threads(1)

    class Device:
        """Has every test run with the device, from the same seed."""

        @pytest.fixture(autouse=True)
        def device(self):
            torch.manual_seed(0)
            with FakeCuda():
                yield

    cases = [str(path) for path in sorted(HERE.glob("cases_*.py"))]
    return pytest.main([*cases, "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[2:]], plugins=[Device()])


if __name__ == "__main__":
    sys.exit(main())
