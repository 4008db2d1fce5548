"""Voxel archives for `dnet_lib`: procedural furniture, voxelized meshes, and other people's voxel files."""

from .archive import CATEGORIES, Archive, ArchiveError, read_archive, write_archive
from .furniture import make_furniture
from .layouts import import_shapes
from .off import MeshError, load_off
from .voxelizer import voxelize

__all__ = [
    "CATEGORIES",
    "Archive",
    "ArchiveError",
    "MeshError",
    "import_shapes",
    "load_off",
    "make_furniture",
    "read_archive",
    "voxelize",
    "write_archive",
]
