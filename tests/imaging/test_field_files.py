"""Fields as TIFF files: pixels, record and resolution survive, small or large, and damage is told."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from imaging import windows
from imaging.errors import InputError
from imaging.images import read_image
from imaging.maskfile import read_mask
from imaging.provenance import Provenance, read_provenance
from imaging.windows import Resolution, encode_tiff, preview_factor, read_resolution, smaller
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.reading import refused_in_one_line_or_read

RECORD = Provenance("0.1.0", "generate", {"origin": "ü — 'a'.png", "seed": 2**63}, {"a b.png": "0" * 64}, {"n": None})
TEXT = RECORD.text()
MICRONS = Resolution(Fraction(20000), Fraction(40001, 2), 3)


def pixels(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    rough = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(rough, np.ones((64, 64, 1), dtype=np.uint8))[:height, :width])


@pytest.mark.parametrize("shape", [(16, 16), (256, 256), (257, 300), (700, 511)])
@pytest.mark.parametrize("large", [False, True], ids=["classic", "big"])
def test_pixels_record_and_resolution_survive_the_file(shape, large, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(windows, "LARGEST_CLASSIC", 1000)
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = tmp_path / "field.tif"
    path.write_bytes(encode_tiff(image, TEXT, MICRONS))
    np.testing.assert_array_equal(read_image(path), image)
    assert read_provenance(path) == RECORD
    assert read_resolution(path) == MICRONS
    # Another program's reading.
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert (file.is_bigtiff, page.is_tiled, page.tags["ResolutionUnit"].value) == (large, True, 3)
        assert page.tags["XResolution"].value == (20000, 1)
        assert page.tags["YResolution"].value == (40001, 2)
        assert page.description == TEXT["stainloom"]
        np.testing.assert_array_equal(page.asarray(), image)


def test_a_field_of_4096_px_goes_out_and_in(tmp_path):
    image, path = pixels(4096, 4096), tmp_path / "field.tif"
    path.write_bytes(encode_tiff(image, TEXT, MICRONS))
    np.testing.assert_array_equal(read_image(path), image)
    labels = (image[..., 0] > 128).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "mask.tif", labels, tile=(256, 256), compression="zlib", resolution=(20000, 20000), resolutionunit=3
    )
    tifffile.imwrite(tmp_path / "big.tif", labels, tile=(256, 256), bigtiff=True)
    for name, resolution in (("mask.tif", Resolution(Fraction(20000), Fraction(20000), 3)), ("big.tif", None)):
        np.testing.assert_array_equal(read_mask(tmp_path / name).numbers, labels)
        found = read_resolution(tmp_path / name)
        assert found == resolution or (found is not None and found.unit == 1)


def test_without_a_resolution_there_are_no_tags_of_one(tmp_path):
    path = tmp_path / "field.tif"
    path.write_bytes(encode_tiff(pixels(64, 64), TEXT))
    with Image.open(path) as image:
        assert not {282, 283, 296} & set(image.tag_v2)
    assert read_resolution(path) is None


def save_tagged(path: Path, x: object, y: object, unit: object = 2, orientation: int = 1) -> Path:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in ((282, 5, x), (283, 5, y), (296, 3, unit), (274, 3, orientation)):
        if value is not None:
            tags.tagtype[tag], tags[tag] = kind, value
    Image.new("L", (32, 24)).save(path, tiffinfo=tags)
    return path


def test_resolutions_of_masks_are_read_from_their_tags(tmp_path):
    path = tmp_path / "mask.tif"
    read = [read_resolution(save_tagged(path, Fraction(3, 2), 300, *more)) for more in ((), (3,), (1,), (2, 6))]
    three_halves, whole = Fraction(3, 2), Fraction(300)
    assert read == [
        Resolution(three_halves, whole, 2),
        Resolution(three_halves, whole, 3),
        Resolution(three_halves, whole, 1),
        Resolution(whole, three_halves, 2),  # upright, as the mask is read
    ]
    Image.new("L", (32, 24)).save(tmp_path / "mask.png", dpi=(50800, 25400))
    assert read_resolution(tmp_path / "mask.png") == Resolution(Fraction(20000), Fraction(10000), 3)
    Image.new("L", (32, 24)).save(tmp_path / "bare.png")
    assert read_resolution(tmp_path / "bare.png") is None


@pytest.mark.parametrize(("x", "unit"), [(0, 2), (300, 0), (300, 4), (None, 2)])
def test_resolutions_without_sense_are_none(x, unit, tmp_path):
    assert read_resolution(save_tagged(tmp_path / "mask.tif", x, 300, unit)) is None


def test_a_description_of_another_program_is_no_record(tmp_path):
    path = tmp_path / "field.tif"
    for text in ("ImageJ=1.53", '{"shape": [4, 4]}', "", '{"program": "other"}'):
        Image.new("RGB", (32, 24)).save(path, tiffinfo={270: text})
        with pytest.raises(InputError, match=r"field\.tif: has no record"):
            read_provenance(path)
    Image.new("RGB", (32, 24)).save(path, tiffinfo={270: '{"program": "stainloom", "version": 1}'})
    with pytest.raises(InputError, match=r"field\.tif: its record cannot be read"):
        read_provenance(path)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_fields_are_refused_in_one_line_or_read(seed, tmp_path, capfd):
    image = pixels(300, 280)
    path = tmp_path / "field.tif"
    path.write_bytes(mutate_bytes(encode_tiff(image, TEXT, MICRONS), random.Random(seed)))
    refused_in_one_line_or_read(read_image, path)
    for read in (read_provenance, read_resolution):
        message = ""
        try:
            read(path)
        except InputError as refusal:
            message = str(refusal)
        assert message.isprintable()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("part", range(0, 100, 9))
def test_a_field_cut_short_is_refused(part, tmp_path):
    whole, path = encode_tiff(pixels(300, 280), TEXT, MICRONS), tmp_path / "field.tif"
    path.write_bytes(whole[: len(whole) * part // 100])
    with pytest.raises(InputError, match=r"field\.tif"):
        read_image(path)


def test_only_colour_images_are_written():
    for array in (np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match=r"need uint8 \[H, W, 3\]"):
            encode_tiff(array, TEXT)


def test_previews_of_large_fields_are_smaller():
    assert [preview_factor(*sides) for sides in ((512, 512), (2048, 100), (100, 2049), (8192, 4096))] == [1, 1, 2, 4]
    image, labels = pixels(130, 67), np.arange(130 * 67).reshape(130, 67)
    assert smaller(image, 1) is image
    assert smaller(image, 4).shape == (33, 17, 3)
    assert smaller(labels, 4).shape == (33, 17)
    np.testing.assert_allclose(smaller(image, 2)[:32, :32].astype(int), image[:64:2, :64:2].astype(int), atol=1)
