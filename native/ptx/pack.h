// pack.h: a pack of PTX files, which the build writes (host/cllm/ptxpack.py) and gpud reads.
//
//   struct ptx_pack_header
//   struct ptx_pack_file   [n_files]
//   struct ptx_pack_kernel [n_kernels]   by file, then by name hash
//   struct ptx_pack_param  [n_params]
//   the files' text, each a zlib stream (RFC 1950) at `offset` from the pack's start, or as it is
//   where `packed` equals `bytes`
//
// Little-endian, no padding but what is declared. A module in the image does not hold its PTX but a
// struct ptx_reference of 48 bytes, which names the file by number and hash.
#ifndef CLLM_PTX_PACK_H
#define CLLM_PTX_PACK_H

#include <stdint.h>

#define PTX_PACK_MAGIC "CLLMPTXP"
#define PTX_REFERENCE_MAGIC "CLLMPTXR"
#define PTX_PACK_VERSION 1

struct ptx_reference {
    char magic[8];
    uint32_t version, file;
    uint8_t sha256[32]; // of the text
};

struct ptx_pack_header {
    char magic[8];
    uint32_t version, n_files, n_kernels, n_params;
    uint32_t arch[8]; // compute capabilities that the files are for: 61, 80; 0 for none
};

struct ptx_pack_file {
    uint8_t sha256[32]; // of the text
    uint32_t number;    // as in ptx_reference; files of one number differ in `arch`
    uint32_t arch;
    uint64_t offset;
    uint32_t packed, bytes; // of the stream, of the text
    uint32_t first_kernel, n_kernels;
};

// A kernel's text is [start, start + length) of the file's; with the file's head and the globals it
// names it is a module on its own.
struct ptx_pack_kernel {
    uint64_t hash; // ucuda_name_hash()
    uint32_t start, length;
    uint32_t first_param, n_params;
    uint32_t param_bytes, static_shared;
};

struct ptx_pack_param {
    uint16_t offset, size; // bytes
};

#endif
