"""NIfTI volumes: orientation and spacing are right, bombs and damaged files are one word each."""

import contextlib
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wardround.datasets import phantom
from wardround.datasets.cohort import Cohort, add
from wardround.datasets.cohort_options import Options
from wardround.datasets.errors import DataError, FileRefused
from wardround.datasets.nifti import decode, decode_mask, probe, read_image, read_mask

KEY = bytes(range(32))
VOXELS = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def nifti(
    values: NDArray[np.generic], affine: NDArray[np.float64] | None = None, version: int = 1
) -> bytes:
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    data: bytes = kind(values, np.eye(4) if affine is None else affine).to_bytes()
    return data


PLAIN = nifti(VOXELS)
PACKED = gzip.compress(PLAIN)


@pytest.mark.parametrize("data", [PLAIN, PACKED, nifti(VOXELS, version=2)])
def test_both_versions_packed_or_not(data: bytes) -> None:
    volume = decode(data)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert (volume.orientation, volume.spacing, volume.oblique) == ("RAS", (1, 1, 1), False)


def test_header_extensions_are_passed_over() -> None:
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    np.testing.assert_array_equal(decode(gzip.compress(image.to_bytes())).voxels, VOXELS)


def test_several_gzip_members_are_one_file() -> None:
    data = gzip.compress(PLAIN[:400]) + gzip.compress(PLAIN[400:])
    np.testing.assert_array_equal(decode(data).voxels, VOXELS)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "LAI"])
def test_every_orientation_is_turned_to_ras_exactly(codes: str) -> None:
    ras = nibabel.Nifti1Image(VOXELS, np.diag([2.0, 3.0, 4.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    volume = decode(ras.as_reoriented(turn).to_bytes())
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    np.testing.assert_allclose(volume.affine, ras.affine)
    assert (volume.orientation, volume.spacing) == (codes, (2, 3, 4))


def test_units_become_millimetres() -> None:
    image = nibabel.Nifti1Image(VOXELS, np.diag([0.002, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    assert decode(image.to_bytes()).spacing == pytest.approx((2, 2, 3))


def test_slope_and_intercept_are_applied() -> None:
    image = nibabel.Nifti1Image(VOXELS.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([2.0, -1000.0], dtype="<f4").tobytes()
    np.testing.assert_allclose(decode(bytes(data)).voxels, VOXELS * 2 - 1000)


def test_spacing_is_resampled_and_the_mask_goes_along(tmp_path: Path) -> None:
    scene = np.zeros((8, 8, 8), dtype=np.float32)
    scene[2:6, 2:6, 2:6] = 100
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    (tmp_path / "i.nii").write_bytes(nifti(scene, affine))
    (tmp_path / "m.nii").write_bytes(nifti((scene > 0).astype(np.uint8), affine))
    paths = ("i.nii", "m.nii")
    content = probe(paths, root=tmp_path, classes=2, key=KEY).content
    voxels = read_image(tmp_path, paths, content, (1, 1, 1))
    mask = read_mask(tmp_path, paths, content, (1, 1, 1))
    assert voxels.shape == mask.shape == (1, 15, 15, 15)
    assert set(np.unique(mask)) == {0, 1}
    assert voxels[mask == 1].mean() > 1 > voxels[mask == 0].mean()
    # 4 voxels of 2 mm are 8 mm; to the nearest voxel that is 7 to 9 of 1 mm.
    assert 7**3 <= int(mask.sum()) <= 9**3


def test_a_gzip_bomb_stops_at_the_size_its_header_promises() -> None:
    bomb = gzip.compress(PLAIN + bytes(200 * 2**20), 9)
    assert len(bomb) < 2**18
    with pytest.raises(FileRefused, match="bomb: more than the 832 bytes"):
        decode(bomb)


def test_a_header_that_promises_terabytes_is_refused_before_unpacking() -> None:
    data = bytearray(PLAIN)
    data[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], dtype="<i2").tobytes()
    for form in (bytes(data), gzip.compress(bytes(data))):
        with pytest.raises(FileRefused, match="too-large"):
            decode(form)


@pytest.mark.parametrize("data", [PLAIN, PACKED])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated_volumes_are_refused(data: bytes, part: float) -> None:
    with pytest.raises(FileRefused, match=r"truncated|not-a-volume"):
        decode(data[: int(len(data) * part)])


def test_what_is_no_volume_is_refused() -> None:
    four = np.zeros((3, 3, 3, 2), dtype=np.float32)
    with pytest.raises(FileRefused, match="four-dimensional: 4"):
        decode(nifti(four))
    np.testing.assert_array_equal(decode(nifti(VOXELS[..., np.newaxis])).voxels, VOXELS)
    with pytest.raises(FileRefused, match="colours or complex"):
        decode(nifti(VOXELS.astype(np.complex64)))
    with pytest.raises(FileRefused, match="not-a-volume"):
        decode(gzip.compress(b"a diary"))
    broken = VOXELS.copy()
    broken[1, 1, 1] = np.inf
    with pytest.raises(FileRefused, match="bad-pixels"):
        decode(nifti(broken))
    with pytest.raises(FileRefused, match="label-values"):
        decode_mask(nifti(VOXELS + 0.5))


def test_impossible_geometry_is_refused_and_oblique_is_mentioned(tmp_path: Path) -> None:
    flat = bytearray(PLAIN)
    flat[280:296] = bytes(16)  # srow_x: every voxel at the same place from left to right
    with pytest.raises(FileRefused, match="bad-geometry"):
        decode(bytes(flat))
    with pytest.raises(FileRefused, match="bad-geometry"):
        decode(nifti(VOXELS, np.diag([1000.0, 1, 1, 1])))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    (tmp_path / "i.nii").write_bytes(nifti(VOXELS, turn))
    (tmp_path / "m.nii").write_bytes(nifti(np.zeros(VOXELS.shape, dtype=np.uint8), turn))
    notes = dict(probe(("i.nii", "m.nii"), root=tmp_path, classes=2, key=KEY).notes)
    assert set(notes) == {"oblique", "label-empty"}


def test_a_header_without_geometry_is_mentioned(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header["pixdim"][1:4] = 1
    (tmp_path / "i.nii").write_bytes(image.to_bytes())
    mask = nibabel.Nifti1Image(np.ones(VOXELS.shape, dtype=np.uint8), None)
    mask.header["pixdim"][1:4] = 1
    (tmp_path / "m.nii").write_bytes(mask.to_bytes())
    found = probe(("i.nii", "m.nii"), root=tmp_path, classes=2, key=KEY)
    assert ("no-geometry", "") in found.notes
    assert found.orientation == ""


@given(
    packed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 50),
)
def test_damaged_volumes_are_read_or_refused_and_nothing_else(
    packed: bool, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(PLAIN)
    for place, value in changes:
        data[place] = value
    whole = bytes(data[: len(data) - cut])
    with contextlib.suppress(FileRefused):
        volume = decode(gzip.compress(whole) if packed else whole)
        assert volume.voxels.ndim == 3
        assert np.isfinite(volume.voxels).all()


def pairs(folder: Path, **volumes: tuple[bytes, bytes]) -> Path:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name, (image, mask) in volumes.items():
        (folder / "imagesTr" / f"{name}.nii").write_bytes(image)
        (folder / "labelsTr" / f"{name}.nii").write_bytes(mask)
    (folder / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "organ"}, "training": ['
        + ",".join(
            f'{{"image": "./imagesTr/{n}.nii", "label": "./labelsTr/{n}.nii"}}' for n in volumes
        )
        + "]}"
    )
    return folder


def test_what_is_wrong_with_a_pair_is_said_and_the_rest_is_used(tmp_path: Path) -> None:
    mask = (VOXELS > 60).astype(np.uint8)
    moved = np.eye(4)
    moved[0, 3] = 5
    left = np.diag([-1.0, 1, 1, 1])
    source = pairs(
        tmp_path / "in",
        good=(PLAIN, nifti(mask)),
        left=(nifti(VOXELS + 1, left), nifti(mask, left)),
        small=(nifti(VOXELS[:3]), nifti(mask)),
        moved=(nifti(VOXELS + 2), nifti(mask, moved)),
        value=(nifti(VOXELS + 3), nifti(mask * 2)),
        spaced=(nifti(VOXELS, np.diag([1.0, 1, 2, 1])), nifti(mask, np.diag([1.0, 1, 2, 1]))),
        gone=(PLAIN, b""),
        lost=(PLAIN, b""),
    )
    (source / "labelsTr" / "lost.nii").unlink()
    cohort = add(source, tmp_path, "mixed", "segmentation-3d", key=KEY)
    found = {finding.where: finding.code for finding in cohort.findings if finding.where}
    assert found == {
        "imagesTr/lost.nii": "label-missing",
        "imagesTr/small.nii": "label-shape",
        "imagesTr/moved.nii": "label-shape",
        "imagesTr/value.nii": "label-values",
        "imagesTr/gone.nii": "empty",
        # The same voxels under two patients, whatever their spacing:
        "imagesTr/good.nii": "duplicate-patient",
        "imagesTr/spaced.nii": "duplicate-patient",
    }
    assert len(cohort.manifest.entries) == 1


def test_mixed_orientations_and_spacings_are_said_once(tmp_path: Path) -> None:
    mask = nifti((VOXELS > 60).astype(np.uint8))
    left, thick = np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, 3, 1])
    organ = (VOXELS > 60).astype(np.uint8)
    source = pairs(
        tmp_path / "in",
        a=(nifti(VOXELS), mask),
        b=(nifti(VOXELS + 1, left), nifti(organ, left)),
        c=(nifti(VOXELS + 2, thick), nifti(organ, thick)),
    )
    findings = {
        f.code: f.detail for f in add(source, tmp_path, "m", "segmentation-3d", key=KEY).findings
    }
    assert findings["orientation-mixed"] == "1 LAS, 2 RAS"
    assert findings["spacing-mixed"] == "2 different"
    even = add(
        source, tmp_path, "e", "segmentation-3d", key=KEY, options=Options(spacing=(1, 1, 1))
    )
    assert "spacing-mixed" not in {finding.code for finding in even.findings}
    shapes = {even.read(sample).shape for sample in Cohort.load(tmp_path, "e").samples("train")}
    assert shapes <= {(1, 4, 5, 6), (1, 4, 5, 16)}


def test_folders_without_a_description_need_class_names(tmp_path: Path) -> None:
    source = phantom.volumes(tmp_path / "in", seed=1, patients=2)
    (source / "dataset.json").unlink()
    with pytest.raises(DataError, match="--classes"):
        add(source, tmp_path, "x", "segmentation-3d", key=KEY)
    options = Options(classes=phantom.TISSUES)
    cohort = add(source, tmp_path, "x", "segmentation-3d", key=KEY, options=options)
    assert cohort.classes == phantom.TISSUES
    assert len(cohort.manifest.entries) == 2


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"labels": {"0": "a"}}', '{"labels": {"0": "a", "2": "b"}, "training": []}'],
)
def test_a_broken_description_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        add(tmp_path, tmp_path / "home", "x", "segmentation-3d", key=KEY)


def test_a_description_cannot_lead_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.nii"
    secret.write_bytes(PLAIN)
    source = pairs(tmp_path / "in", a=(nifti(VOXELS + 1), nifti((VOXELS > 60).astype(np.uint8))))
    text = (source / "dataset.json").read_text().replace("./imagesTr/a.nii", "../secret.nii")
    (source / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="nothing here can be used"):
        add(source, tmp_path, "x", "segmentation-3d", key=KEY)
