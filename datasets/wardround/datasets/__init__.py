"""Hospital data in: read, de-identified, checked and gathered into cohorts."""
