"""numpy arrays as DLPack capsules, which Triton accepts whatever numpy version it was built against.

Triton 2.51's Python backend was built before numpy 2: given a numpy 2 array, it sends the right shape and no bytes, without an
error. It also renames a capsule in a way that numpy's own destructor rejects; these capsules have no destructor. The structures
are those of DLPack 0.x (https://dmlc.github.io/dlpack/latest/c_api.html).
"""

import ctypes
from typing import Any

import numpy as np

CPU = 1  # DLDeviceType
TYPE_CODES = {"i": 0, "u": 1, "f": 2}  # DLDataTypeCode by numpy's kind


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Tensor(ctypes.Structure):
    """DLManagedTensor: a DLTensor and its deleter."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # null: compact, in C order
        ("byte_offset", ctypes.c_uint64),
        ("manager_context", ctypes.c_void_p),
        ("deleter", _Deleter),
    ]


_nothing_to_delete = _Deleter(lambda tensor: None)  # Triton calls the deleter without checking for null


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class SharedArray:
    """An array exported through ``__dlpack__``. The memory is not copied: keep this object alive until it has been read."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = np.ascontiguousarray(array)
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        dtype = array.dtype
        self._tensor = _Tensor(
            self._array.ctypes.data,
            CPU,
            0,
            array.ndim,
            TYPE_CODES[dtype.kind],
            dtype.itemsize * 8,
            1,
            self._shape,
            None,
            0,
            None,
            _nothing_to_delete,
        )

    def __dlpack__(self, stream: Any = None) -> Any:
        return _new_capsule(ctypes.addressof(self._tensor), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0
