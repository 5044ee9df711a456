"""One file per revision, named <revision>_<what>.py; the highest number is the newest."""
