"""Can a teacher be trusted? Players of several strengths, agreement, calibration, validation."""
