"""Complex tanh of large and small arguments, against NumPy's: no overflow on the way."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import fusewright as fw


def test_complex_tanh_of_any_size() -> None:
    spec = tf.TensorSpec((None,), tf.float32)

    @tf.function(input_signature=[spec, spec])
    def tanh(a, b):
        y = tf.tanh(tf.complex(a, b))
        return {"re": tf.math.real(y), "im": tf.math.imag(y)}

    rng = np.random.default_rng(0)
    a = np.concatenate([rng.normal(size=40) * s for s in (1e-3, 0.5, 3, 100)]).astype(np.float32)
    b = rng.uniform(-1, 1, a.shape).astype(np.float32)
    want = np.tanh(a.astype(np.complex128) + 1j * b.astype(np.float64))
    got = fw.import_model(tanh).run({"a": a, "b": b})
    np.testing.assert_allclose(got["re"], want.real, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(got["im"], want.imag, rtol=2e-5, atol=1e-7)
