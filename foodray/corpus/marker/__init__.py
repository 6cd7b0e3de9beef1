"""The fiducial marker of a study: what is printed on it, and what it tells about a photo.

In: the text of `markers.yaml` and the oriented photo. Out: `Marker`s by id, and a `Calibration`: scale and homography of the plane
the marker lies in, tilt, colour correction, and flags. A missing marker is a condition to report, not an error.
The camera is tilted, so a square is foreshortened; the scale is the root of the area of a square over its side, which keeps areas right.

Photos must be oriented (EXIF applied) and not mirrored: an ArUco marker or a board in a mirror is not a marker.
"""

from foodray.corpus.marker.calibration import COVER_PX, FLAGS, Calibration, calibrate, calibrate_photo
from foodray.corpus.marker.color import apply_color
from foodray.corpus.marker.entries import Marker, read_markers

__all__ = ["COVER_PX", "FLAGS", "Calibration", "Marker", "apply_color", "calibrate", "calibrate_photo", "read_markers"]
