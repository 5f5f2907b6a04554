"""ggml's own C API in libcllm_engine.so, for tests of single operations: arrays in, arrays out."""

import numpy as np

from support.engine_library import LIBRARY

DECLARATIONS = """
struct ggml_init_params { size_t mem_size; void *mem_buffer; bool no_alloc; };
void *ggml_init(struct ggml_init_params params);
void ggml_free(void *ctx);
void *ggml_new_tensor(void *ctx, int type, int n_dims, const int64_t *ne);
void *ggml_mul_mat(void *ctx, void *a, void *b);
void *ggml_flash_attn_ext(void *ctx, void *q, void *k, void *v, void *mask, float scale,
    float max_bias, float logit_softcap);
void *ggml_swiglu(void *ctx, void *a);
void *ggml_swiglu_split(void *ctx, void *a, void *b);
void *ggml_new_graph(void *ctx);
void ggml_build_forward_expand(void *graph, void *tensor);
size_t ggml_nbytes(const void *tensor);
size_t ggml_quantize_chunk(int type, const float *src, void *dst, int64_t start, int64_t nrows,
    int64_t n_per_row, const float *imatrix);
size_t ggml_row_size(int type, int64_t ne);
struct kernels { void (*install)(void); void (*set_mode)(int mode); bool for_tcg; };
const struct kernels *cllm_kernels(void); // native/kernels/kernels.h

void *ggml_backend_cpu_init(void);
void ggml_backend_cpu_set_n_threads(void *backend, int n_threads);
void ggml_backend_free(void *backend);
int ggml_backend_graph_compute(void *backend, void *graph);
void *ggml_backend_cpu_buffer_type(void);
void *ggml_backend_alloc_ctx_tensors_from_buft(void *ctx, void *buft);
void ggml_backend_buffer_free(void *buffer);
const char *ggml_backend_buft_name(void *buft);
void ggml_backend_tensor_set(void *tensor, const void *data, size_t offset, size_t size);
void ggml_backend_tensor_get(const void *tensor, void *data, size_t offset, size_t size);
void *ggml_backend_cpu_reg(void);
void *ggml_backend_reg_dev_get(void *reg, size_t index);
void *ggml_backend_reg_get_proc_address(void *reg, const char *name);
bool ggml_backend_dev_supports_op(void *device, const void *op);
"""
F32, F16 = 0, 1


class Ggml:
    """The CPU backend with `n_threads`; `so` has ggml's functions."""

    def __init__(self, n_threads=1):
        import cffi

        self.ffi = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        self.so = self.ffi.dlopen(str(LIBRARY))
        self.backend = self.so.ggml_backend_cpu_init()
        self.so.ggml_backend_cpu_set_n_threads(self.backend, n_threads)

    def close(self):
        self.so.ggml_backend_free(self.backend)

    def buffer_types(self):
        """Return {name: buffer type} of the CPU backend, the extra ones first."""
        reg = self.so.ggml_backend_cpu_reg()
        get = self.ffi.cast(
            "void **(*)(void *)",
            self.so.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_dev_get_extra_bufts"),
        )
        extra = get(self.so.ggml_backend_reg_dev_get(reg, 0))
        found, i = [], 0
        while extra[i] != self.ffi.NULL:
            found.append(extra[i])
            i += 1
        found.append(self.so.ggml_backend_cpu_buffer_type())
        return {self.ffi.string(self.so.ggml_backend_buft_name(b)).decode(): b for b in found}

    def quantize(self, kind, weights):
        """Return a float32 matrix as bytes of ggml's type number `kind`."""
        rows, columns = weights.shape
        data = self.ffi.new("char[]", self.so.ggml_row_size(kind, columns) * rows)
        weights = np.ascontiguousarray(weights, np.float32)
        self.so.ggml_quantize_chunk(
            kind, self._floats(weights), data, 0, rows, columns, self.ffi.NULL
        )
        return bytes(self.ffi.buffer(data))

    def mul_mat(self, buffer_type, kind, data, shape, x):
        """Multiply x (..., columns, n) by the matrix of `shape` (rows, n) whose bytes are `data`.

        Return float32 (..., columns, rows), or None if the buffer type cannot hold such a matrix.
        """
        so, null = self.so, self.ffi.NULL
        weights_ctx, ctx = self._context(), self._context()
        buffers = []
        try:
            a = self._tensor(weights_ctx, kind, shape)
            b = self._tensor(ctx, F32, x.shape)
            buffers.append(so.ggml_backend_alloc_ctx_tensors_from_buft(weights_ctx, buffer_type))
            y = so.ggml_mul_mat(ctx, a, b)
            device = so.ggml_backend_reg_dev_get(so.ggml_backend_cpu_reg(), 0)
            if not so.ggml_backend_dev_supports_op(device, y):
                return None
            graph = so.ggml_new_graph(ctx)
            so.ggml_build_forward_expand(graph, y)
            buffers.append(
                so.ggml_backend_alloc_ctx_tensors_from_buft(ctx, so.ggml_backend_cpu_buffer_type())
            )
            assert null not in buffers
            so.ggml_backend_tensor_set(a, data, 0, len(data))
            x = np.ascontiguousarray(x, np.float32)
            so.ggml_backend_tensor_set(b, self._floats(x), 0, x.nbytes)
            assert so.ggml_backend_graph_compute(self.backend, graph) == 0
            out = np.empty((*x.shape[:-1], shape[0]), np.float32)
            so.ggml_backend_tensor_get(y, self._floats(out), 0, out.nbytes)
            return out
        finally:
            for buffer in buffers:
                so.ggml_backend_buffer_free(buffer)
            so.ggml_free(ctx)
            so.ggml_free(weights_ctx)

    def attention(self, q, k, v, mask, scale, max_bias=0, softcap=0):
        """Compute ggml_flash_attn_ext(); return float32 (n, heads, width).

        q: (heads, n, width). k, v: (kv heads, keys, width). mask: (n, keys) or None. k, v and mask
        are converted to halves.
        """

        def make(ctx, q, k, v, mask=self.ffi.NULL):
            return self.so.ggml_flash_attn_ext(ctx, q, k, v, mask, scale, max_bias, softcap)

        inputs = [(q, F32), (k, F16), (v, F16), *([(mask, F16)] if mask is not None else [])]
        return self._compute(make, inputs, (q.shape[1], q.shape[0], v.shape[2]))

    def swiglu(self, *inputs):
        """Compute ggml_swiglu() of one float32 matrix, or ggml_swiglu_split() of two."""
        make = self.so.ggml_swiglu if len(inputs) == 1 else self.so.ggml_swiglu_split
        rows, columns = inputs[0].shape
        return self._compute(
            make, [(array, F32) for array in inputs], (rows, columns * len(inputs) // 2)
        )

    def _compute(self, make, inputs, shape):
        """Compute make(context, tensor, ...) of (array, type) pairs; return float32 of `shape`."""
        so = self.so
        ctx = self._context()
        tensors = [self._tensor(ctx, kind, array.shape) for array, kind in inputs]
        y = make(ctx, *tensors)
        graph = so.ggml_new_graph(ctx)
        so.ggml_build_forward_expand(graph, y)
        buffer = so.ggml_backend_alloc_ctx_tensors_from_buft(
            ctx, so.ggml_backend_cpu_buffer_type()
        )
        try:
            for tensor, (array, kind) in zip(tensors, inputs, strict=True):
                kind = np.float32 if kind == F32 else np.float16
                array = np.ascontiguousarray(array, kind)
                so.ggml_backend_tensor_set(
                    tensor, self.ffi.cast("void *", array.ctypes.data), 0, array.nbytes
                )
            assert so.ggml_backend_graph_compute(self.backend, graph) == 0
            out = np.empty(shape, np.float32)
            so.ggml_backend_tensor_get(y, self._floats(out), 0, out.nbytes)
            return out
        finally:
            so.ggml_backend_buffer_free(buffer)
            so.ggml_free(ctx)

    def _context(self):
        return self.so.ggml_init(dict(mem_size=1 << 20, mem_buffer=self.ffi.NULL, no_alloc=True))

    def _tensor(self, ctx, kind, shape):
        return self.so.ggml_new_tensor(ctx, kind, len(shape), list(reversed(shape)))

    def _floats(self, array):
        return self.ffi.cast("float *", array.ctypes.data)
