"""XGBoost's prediction from a dense array by its C API: for a row, what Booster.inplace_predict
does around this one call costs several times the trees themselves. Same function, same bits.

https://xgboost.readthedocs.io/en/stable/c.html (XGBoosterPredictFromDense)
"""

import ctypes
import json
import math
import threading
import weakref

import numpy as np
import xgboost as xgb
from xgboost.libpath import find_lib_path

from rayapp.families.base import Floats

_CONFIG = json.dumps(
    {
        "type": 0,
        "training": False,
        "iteration_begin": 0,
        "iteration_end": 0,
        "missing": math.nan,
        "strict_shape": False,
        "cache_id": 0,
    }
).encode()

_ARRAY = b'{"data":[%d,false],"shape":[%d,%d],"typestr":"<f4","version":3}'  # NumPy's interface


class DensePredictor:
    """Of one booster. Safe to share between threads: a call waits for the one before it."""

    def __init__(self, booster: xgb.Booster) -> None:
        self._booster = booster  # its handle is freed with it
        self._library = ctypes.CDLL(find_lib_path()[0])
        self._library.XGBGetLastError.restype = ctypes.c_char_p
        self._proxy = ctypes.c_void_p()
        self._check(self._library.XGProxyDMatrixCreate(ctypes.byref(self._proxy)))
        weakref.finalize(self, self._library.XGDMatrixFree, self._proxy)
        self._lock = threading.Lock()

    def predict(self, x_NF: Floats) -> Floats:
        """[N], or [N, K] of a multiclass booster, both float32."""
        x_NF = np.ascontiguousarray(x_NF, dtype=np.float32)
        place = x_NF.__array_interface__["data"][0]
        rows, columns = x_NF.shape
        shape, dim = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        found = ctypes.POINTER(ctypes.c_float)()
        with self._lock:
            self._check(
                self._library.XGBoosterPredictFromDense(
                    self._booster.handle,
                    _ARRAY % (place, rows, columns),
                    _CONFIG,
                    self._proxy,
                    ctypes.byref(shape),
                    ctypes.byref(dim),
                    ctypes.byref(found),
                )
            )
            sizes = shape[: dim.value]
            scores = ctypes.string_at(found, math.prod(sizes) * np.float32().nbytes)  # a copy
        return np.frombuffer(scores, np.float32).reshape(sizes)

    def _check(self, code: int) -> None:
        if code != 0:
            raise RuntimeError(self._library.XGBGetLastError().decode(errors="replace"))
