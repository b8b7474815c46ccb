"""OpenCV, imported in one place, so that a missing system library is explained once; and how large images may be."""

import os

from ahm_env.errors import SettingsError

# A few damaged bytes of a header may ask for gigabytes. Whoever has larger images says so in the environment, in the
# variable that OpenCV reads when it is imported; the limit is that of all formats.
LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
if not os.environ.setdefault(LIMIT, str(100_000_000)).isdecimal():
    raise SettingsError(f"{LIMIT}={os.environ[LIMIT]}: not a number of pixels; give one such as 400000000, or unset it")
MOST_PIXELS = int(os.environ[LIMIT])

DEBIAN_PACKAGES = {"libGL.so": "libgl1", "libgthread": "libglib2.0-0", "libglib": "libglib2.0-0"}

try:
    import cv2
except ImportError as error:
    package = next((name for library, name in DEBIAN_PACKAGES.items() if library in str(error)), None)
    if package is None:
        raise
    raise SettingsError(
        f"OpenCV cannot start ({error}): a system library is missing; install it "
        f"(Debian, Ubuntu: `apt-get install {package}`) or use the package opencv-python-headless"
    ) from error

SILENT = 0

# Damaged images are reported by us, with their file; OpenCV's own lines would tear a progress bar.
# OpenCV 4 has the function in one place, OpenCV 5 in another.
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
_set_log_level(SILENT)

__all__ = ["MOST_PIXELS", "cv2"]
