"""Why a file is not passed on: a fixed list of words, each with a sentence for a person."""

from types import MappingProxyType

REASONS = MappingProxyType(
    {
        "empty": "the file has no bytes; export it again",
        "not_dicom": "not a DICOM file; it was left where it is",
        "unreadable": "the operating system does not let this account read it",
        "special_file": "not a regular file (device, socket or pipe)",
        "link": "a symbolic link; only files inside the folder itself are read",
        "too_large": "larger than the limits for files and pictures; see max_file_mb in the README",
        "expands": "expands far beyond its size (a decompression bomb); refused",
        "truncated": "the file ends before its data do; export it again",
        "malformed": "the DICOM structure is broken; export it again",
        "encrypted": "the file is encrypted; decrypt it before de-identification",
        "directory": "a DICOMDIR index, which names patients and holds no image",
        "unknown_class": "an object class this version does not know; its attributes are unsafe",
        "unidentified": "SOP Class or SOP Instance UID is missing",
        "modality": "a modality the profile does not ask for",
        "burned_in_header": "its header says, or its kind suggests, text burned into the pixels",
        "burned_in_pixels": "its pixels look as if they hold burned-in text",
        "recognisable": "its header says a person is recognisable in the pixels",
        "pixels_unreadable": "its pixels cannot be decoded, so they cannot be checked for text",
        "no_decoder": "no decoder for its compression here; pip install pylibjpeg-libjpeg "
        "pylibjpeg-openjpeg",
        "survivor": "an identifying value was still found in the result; nothing was written",
        "no_pixels": "a DICOM object without an image",
        "several_frames": "several frames in one file where one picture was expected",
        "single_slice": "one slice, where a volume was expected",
        "no_geometry": "position, orientation or spacing of a slice is missing or impossible",
        "mixed_series": "files of several series, patients or frames of reference",
        "mixed_kind": "files of several modalities or kinds of pixels",
        "mixed_size": "slices of several sizes",
        "mixed_orientation": "slices of several orientations, such as a localiser among them",
        "mixed_spacing": "slices of several pixel spacings",
        "duplicate_slice": "two slices at one place, such as two echoes or a repeated export",
        "gap": "slices at irregular distances; one may be missing",
        "tilted": "slices shifted against each other (gantry tilt); resample them first",
        "crash": "a decoder ended the worker process on this file",
    }
)
